"""What candidates are judged by: every metric declared once, and what an evaluator declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sret_nas import files
from sret_nas.errors import Problem
from sret_nas.units import format_count, format_quantity

Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
UNSAID = ("", "nats", "share")
"""Units that are not written behind a value."""
NAME = re.compile(r"[a-z][a-z0-9_]*")


class Metric(files.Record):
    """A number about an architecture.

    Attributes:
        name: An identifier that ends in the unit where there is one, e.g. ``latency_ms``.
        title: In a sentence, e.g. ``validation loss``.
        short: As the heading of a narrow column; default the title.
        unit: E.g. ``nats``; empty for a number of things.
        direction: Which way is better, as Optuna says it.
        format: A format specification of Python, e.g. ``.4f``; one that ends in ``%`` is for
            shares.
        alias: What it may also be called where objectives are chosen.
        known: Whether it is a cost, known before anything is evaluated. Costs are the
            package's own; an evaluator's metrics are not known.
        less: How a sentence says that one has ``{}`` times less of it.
    """

    top: ClassVar[bool] = True

    name: str
    title: Annotated[str, Field(min_length=1)]
    short: str = ""
    unit: str = ""
    direction: Literal["minimize", "maximize"] = "minimize"
    format: str = ".4g"
    alias: str | None = None
    known: bool = False
    less: str = ""

    def _problems(self) -> Iterator[Problem]:
        for key in ("name", "alias"):
            word = getattr(self, key)
            if word is not None and not NAME.fullmatch(word):
                why = "small letters, digits and _, e.g. latency_ms"
                yield Problem((key,), f"given '{word}'; allowed: {why}")
        try:
            format(0.5, self.format)
        except ValueError as error:
            yield Problem(("format",), f"given '{self.format}'; {error}; allowed: e.g. .4f, .2%")

    @property
    def label(self) -> str:
        """The title with the unit: for axes and tables.

        Example:
            >>> VAL_LOSS.label, PARAMS.label
            ('validation loss (nats)', 'parameters')
        """
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def heading(self) -> str:
        """The short form."""
        return self.short or self.title

    def show(self, value: float) -> str:
        """A value for people, with its unit where its form does not tell.

        Example:
            >>> VAL_ACCURACY.show(0.8125), LATENCY.show(2.0)
            ('81.25%', '2 ms')
        """
        if self.known:
            return format_quantity(self.name, value)
        unit = "" if self.unit in UNSAID else f" {self.unit}"
        return f"{format(value, self.format)}{unit}"

    def below_heading(self, value: float) -> str:
        """The same where a heading says the unit.

        Example:
            >>> LATENCY.below_heading(2.0), MACS.below_heading(1.3e9)
            ('2', '1.3G')
        """
        if not self.known or self.unit == "bytes":
            return self.show(value)
        return f"{value:.3g}" if self.unit == "ms" else format_count(value)

    def beside_name(self, value: float | None) -> str:
        """The same in running text, beside the title; a dash where it is not known.

        Example:
            >>> VAL_ACCURACY.beside_name(0.8125), MACS.beside_name(None)
            ('81.2 %', '–')
        """
        if value is None:
            return "–"
        if self.format.endswith("%"):
            return f"{100 * value:.1f} %"
        return self.below_heading(value) if self.known and not self.unit else self.show(value)

    def loss(self, value: float) -> float:
        """The value as something to minimise."""
        return value if self.direction == "minimize" else -value


VAL_LOSS = Metric(
    name="val_loss", title="validation loss", short="val loss", unit="nats", format=".4f",
    alias="loss",
)  # fmt: skip
VAL_ACCURACY = Metric(
    name="val_accuracy", title="validation accuracy", short="val acc", unit="share",
    direction="maximize", format=".2%", alias="accuracy",
)  # fmt: skip
TRAIN_LOSS = Metric(name="train_loss", title="training loss", unit="nats", format=".4f")
TEST_ACCURACY = Metric(
    name="test_accuracy", title="test accuracy", short="test acc", unit="share",
    direction="maximize", format=".2%",
)  # fmt: skip
MACS = Metric(name="macs", title="MACs", known=True, less="needs {} times fewer MACs")
PARAMS = Metric(
    name="params", title="parameters", short="params", known=True,
    less="has {} times fewer parameters",
)  # fmt: skip
LATENCY = Metric(
    name="latency_ms", title="latency", short="ms", unit="ms", alias="latency", known=True,
    less="takes {} times less time",
)  # fmt: skip
MEMORY = Metric(
    name="peak_bytes", title="peak memory", short="memory", unit="bytes", alias="memory",
    known=True, less="needs {} times less memory",
)  # fmt: skip
COSTS = (MACS, PARAMS, LATENCY, MEMORY)
"""What is known of an architecture before it is evaluated."""

TAKEN = {
    "architecture", "cause", "config", "curve", "depth", "dethroned", "eager", "error", "failed",
    "id", "images", "interrupted", "latency", "latency_margin_ms", "latency_source", "mean",
    "metrics", "reason", "rejected", "seconds", "seeds", "std", "study", "trial",
}  # fmt: skip
"""Names beside metrics in records and files."""
OURS = re.compile("confirmed.*|.*_std")
"""Names that are made of a metric's."""


class Declaration(files.Record):
    """What an evaluator tells of itself before it is asked for anything.

    Attributes:
        metrics: What it finds; the first is what a search optimises unless told otherwise.
        tests: What it finds on test images, of the confirmed front alone: never ranked by.
        progress: What its curve holds beside ``metrics``.
        step: What one step of an evaluation is, e.g. ``epoch``; empty where it has none.
        fidelities: Steps after which candidates are compared, ascending; the last is an
            evaluation to the end. Empty without steps.
        seeds: Most evaluations of a member of the front, each with a seed of its own; those
            beyond the first are made where a decision hangs on them. 1 where the seed does
            not matter.
    """

    top: ClassVar[bool] = True

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    tests: tuple[Metric, ...] = ()
    progress: tuple[Metric, ...] = ()
    step: str = ""
    fidelities: tuple[Count, ...] = ()
    seeds: Count = 1

    def _problems(self) -> Iterator[Problem]:
        if list(self.fidelities) != sorted(set(self.fidelities)):
            yield Problem(
                ("fidelities",), f"given {list(self.fidelities)}; allowed: ascending steps"
            )
        if self.step and not self.fidelities:
            yield Problem(("fidelities",), f"none given with the step '{self.step}'")
        if self.fidelities and not self.step:
            yield Problem(("step",), "none given with fidelities; allowed: a word, e.g. epoch")
        taken = set(TAKEN)
        for cost in COSTS:
            taken |= {cost.name, cost.alias or cost.name}
        if self.step in taken or (self.step and not NAME.fullmatch(self.step)):
            yield Problem(("step",), f"given '{self.step}'; allowed: another word, e.g. round")
        taken.add(self.step)
        for kind in ("metrics", "tests", "progress"):
            for i, metric in enumerate(getattr(self, kind)):
                own = {metric.name, metric.alias or metric.name}
                if metric.known:
                    yield Problem((kind, i, "known"), "given true; allowed: false")
                    continue
                if any(OURS.fullmatch(word) for word in own):
                    yield Problem((kind, i, "name"), f"'{metric.name}' is made of another's")
                if own & taken:
                    yield Problem((kind, i, "name"), f"'{(own & taken).pop()}' is taken")
                taken |= own

    @property
    def full(self) -> int:
        """Steps of an evaluation to the end; 0 without steps."""
        return self.fidelities[-1] if self.fidelities else 0

    @property
    def trains(self) -> bool:
        """Whether it is a training: its steps are epochs."""
        return self.step == "epoch"

    @property
    def finished(self) -> str:
        """What has been done with a candidate that went to the end."""
        return "trained to the end" if self.trains else "evaluated"

    @property
    def doing(self) -> str:
        """What takes the time of the workers."""
        return "training" if self.trains else "evaluating"

    @property
    def quality(self) -> Metric:
        """What a search optimises unless told otherwise."""
        return self.metrics[0]

    @property
    def all(self) -> tuple[Metric, ...]:
        """Everything that may be shown of a candidate: what is found, then its costs."""
        return (*self.metrics, *self.tests, *self.progress, *COSTS)

    def evaluations(self, trials: int, kept: float = 0.5, front: int = 5) -> float:
        """Work of a whole search, in evaluations to the end.

        Args:
            trials: Candidates tried.
            kept: Share of the candidates that go on after each fidelity.
            front: Members of the front that confirmation evaluates again, as often as it may.

        Example:
            >>> training((1, 2, 4), seeds=3).evaluations(16, front=1)
            10.0
        """
        steps, before, share = 0.0, 0, 1.0
        for fidelity in self.fidelities or (1,):
            steps += trials * share * (fidelity - before)
            before, share = fidelity, share * kept
        return steps / (self.full or 1) + front * (self.seeds - 1)


def training(rungs: Sequence[int], seeds: int) -> Declaration:
    """What a training of a classifier declares.

    Args:
        rungs: Epochs after which candidates are compared; the last is the end.
        seeds: Most trainings of a member of the front.
    """
    return Declaration(
        metrics=(VAL_LOSS, VAL_ACCURACY),
        tests=(TEST_ACCURACY,),
        progress=(TRAIN_LOSS,),
        step="epoch",
        fidelities=tuple(rungs),
        seeds=seeds,
    )
