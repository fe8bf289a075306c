"""What a run found: the front, its confirmation, the ledger, the fidelity of its proxy.

Read from the study alone, at any time, while the run goes on or afterwards.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from sret_nas import files, pareto
from sret_nas.metrics import LATENCY, MACS, MEMORY, PARAMS, Metric
from sret_nas.runner.fidelity import OneSize, one_size
from sret_nas.runner.member import Confirmation, Member
from sret_nas.runner.noise import Noise, moderated, pooled
from sret_nas.runner.order import Order, kendall
from sret_nas.runner.recommendation import Recommendation, recommend
from sret_nas.runner.repeats import repeats_left
from sret_nas.study.config import RunConfig
from sret_nas.study.objectives import costs, losses, quality
from sret_nas.study.records import confirmations, record
from sret_nas.study.retrying import left_out
from sret_nas.study.rundir import RunDir, reported
from sret_nas.study.session import sessions, total_s
from sret_nas.study.trials import counted, returned
from sret_nas.units import as_mapping

FEWEST_ORDERED = 8
"""Candidates trained to the end below which no order is judged."""
SHOWN = (MACS, PARAMS, MEMORY, LATENCY)
"""Costs of a member, in the order of files."""


def confirmed(metric: Metric) -> str:
    """The column of a metric's mean over the seeds."""
    return f"confirmed_{metric.alias or metric.name}"


@dataclass
class RunResult:
    """A run as its study has it.

    Attributes:
        run: The run directory.
        config: What was asked for.
        study: The study.
    """

    run: RunDir
    config: RunConfig
    study: optuna.Study
    trials: list[FrozenTrial] = field(init=False)

    def __post_init__(self) -> None:
        with reported(self.run.label):
            self.trials = self.study.get_trials(deepcopy=False)

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return self.study.user_attrs

    @property
    def foreign(self) -> int:
        """How many trials of the study others have made; they are left out everywhere."""
        return left_out(self.study)

    @property
    def exhausted(self) -> str:
        """Why no more candidates were found; empty where more would have been."""
        return str(self._attributes.get("exhausted") or "")

    # -- counts and seconds ------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """Trials by what became of them; interrupted ones do not count."""
        states = Counter(trial.state for trial in counted(self.trials))
        return {
            "complete": states[TrialState.COMPLETE],
            "pruned": states[TrialState.PRUNED],
            "failed": states[TrialState.FAIL],
        }

    def failures(self) -> dict[str, int]:
        """Failed trials by reason."""
        failed = [t for t in counted(self.trials) if t.state == TrialState.FAIL]
        return dict(Counter(record(t).reason or "unknown" for t in failed))

    def rejected(self) -> dict[str, int]:
        """Proposals that were never trained, by reason."""
        total: Counter[str] = Counter()
        for trial in self.trials:
            total.update(record(trial).rejected)
        return dict(total)

    def seconds(self) -> dict[str, float]:
        """Where the time went.

        ``total`` is wall time; ``training`` (evaluating, where nothing is trained),
        ``latency`` and ``sampling`` are sums over workers; ``workers`` is the wall time of
        all workers together, so that ``overhead`` is what of it is none of these.
        """
        found = {"training": 0.0, "latency": 0.0, "sampling": 0.0}
        for trial in self.trials:
            for key in ("latency", "sampling"):
                found[key] += record(trial).seconds.get(key, 0.0)
            found["training"] += record(trial).training_s
        for _, _, result in confirmations(self._attributes):
            found["training"] += result.get("seconds", 0.0)
        held = sessions(self._attributes)
        found["latency"] += sum(session.get("latency", 0.0) for session in held)
        total = total_s(self._attributes)
        workers = sum(session["seconds"] * session["workers"] for session in held)
        overhead = max(0.0, workers - sum(found.values()))
        return {"total": total, **found, "workers": workers, "overhead": overhead}

    def machines(self) -> list[str]:
        """The machines that searched, in order; empty where none was written down."""
        named = [one["machine"] for one in sessions(self._attributes) if "machine" in one]
        return list(dict.fromkeys(named))

    def saving(self) -> float | None:
        """Share of the steps that stopping at rungs saved, against taking all to the end.

        ``None`` where the evaluator has no steps, or nothing was evaluated.
        """
        trained = [len(record(t).curve) for t in self._trained()]
        full = self.config.declaration.full * len(trained)
        return 1 - sum(trained) / full if full else None

    def _trained(self) -> list[FrozenTrial]:
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        return [trial for trial in counted(self.trials) if trial.state in done]

    # -- the front ---------------------------------------------------------------------------

    def complete(self) -> list[FrozenTrial]:
        """Trials that were trained to the end."""
        return [trial for trial in self.trials if trial.state == TrialState.COMPLETE]

    @cached_property
    def front(self) -> list[Member]:
        """The non-dominated architectures, cheapest first by the first cost sought."""
        goals = self.config.goals
        trials = self.complete()
        points = [losses(goals, record(trial).metrics) for trial in trials]
        keep: Sequence[Any] = pareto.front(points).tolist() if points else []
        front = [trial for trial, kept in zip(trials, keep, strict=True) if kept]
        members = [self._member(trial) for trial in front]
        dethroned, cost = [False] * len(members), costs(goals)[0].name
        if not repeats_left(self.config, front, trials, self._attributes):
            dethroned = self._dethroned(members)
        members = [
            Member(**{**vars(member), "dethroned": lost})
            for member, lost in zip(members, dethroned, strict=True)
        ]
        return sorted(members, key=lambda m: (m.metrics[cost] or 0, m.trial))

    @property
    def metrics(self) -> list[Metric]:
        """Of a member: what its evaluator finds, and its costs."""
        return [*self.config.declaration.metrics, *SHOWN]

    def _member(self, trial: FrozenTrial) -> Member:
        metrics = record(trial).metrics
        return Member(
            trial=trial.number,
            id=record(trial).id,
            metrics={key: metrics.get(key) for key in (one.name for one in self.metrics)},
            architecture=record(trial).architecture,
            confirmation=self._confirmation(trial),
            latency=record(trial).latency,
        )

    def _confirmation(self, trial: FrozenTrial) -> Confirmation | None:
        every = confirmations(self._attributes)
        found = [value for number, _, value in every if number == trial.number]
        if not found:
            return None
        good = [one for one in found if "reason" not in one]
        own, declared = record(trial).metrics, self.config.declaration
        mean: dict[str, float | None] = {}
        std: dict[str, float | None] = {}
        for metric in declared.metrics:
            values = [own[metric.name], *(one[metric.name] for one in good)]
            mean[metric.name] = statistics.fmean(values)
            std[metric.name] = statistics.stdev(values) if len(values) > 1 else 0.0
        for metric in declared.tests:
            tests = [one[metric.name] for one in good if one.get(metric.name) is not None]
            mean[metric.name] = statistics.fmean(tests) if tests else None
            std[metric.name] = statistics.stdev(tests) if len(tests) > 1 else None
        reasons = tuple(one["reason"] for one in found if "reason" in one)
        return Confirmation(1 + len(good), mean, std, reasons)

    def _dethroned(self, members: Sequence[Member]) -> list[bool]:
        """Which members another dominates by what their seeds reached on average."""
        means = [
            member.metrics | (member.confirmation.mean if member.confirmation else {})
            for member in members
        ]
        points = [losses(self.config.goals, mean) for mean in means]  # type: ignore[arg-type]
        return [not kept for kept in pareto.front(points)] if points else []

    @property
    def noise(self) -> Noise | None:
        """How much the quality changes with the seed; ``None`` where nothing was repeated."""
        return pooled(self._repeats(quality(self.config.goals)).values())

    def _repeats(self, goal: Metric) -> dict[int, list[float]]:
        """What each seed found, by the number of the trial, the search's own first."""
        found = {t.number: [record(t).metrics[goal.name]] for t in self.complete()}
        for number, _, result in confirmations(self._attributes):
            if number in found and goal.name in result:
                found[number].append(result[goal.name])
        return found

    @cached_property
    def recommendation(self) -> Recommendation | None:
        """The member to take, and how sure that is; ``None`` with an empty front.

        Where a latency is bounded, of those that keep the bound with their margin, if any.
        """
        standing = any(not member.dethroned for member in self.front)
        kept = [member for member in self.front if not self._too_slow(member)]
        if not any(not member.dethroned for member in kept):
            kept = self.front
        goal = quality(self.config.goals)
        values = self._repeats(goal)
        noises = dict(zip(values, moderated(list(values.values())), strict=False))
        return recommend(kept, goal, noises) if standing else None

    def recommended(self) -> Member | None:
        """The member to take (see ``recommendation``)."""
        found = self.recommendation
        return found.member if found else None

    def _too_slow(self, member: Member) -> bool:
        """Whether its latency may exceed the bound that holds for it."""
        bounds = [b.limit for b in self.config.budgets if b.metric == "latency_ms"][:1]
        found = member.latency or {"ms": member.metrics["latency_ms"] or 0.0, "margin_ms": 0.0}
        return any(found["ms"] + found["margin_ms"] > limit for limit in bounds)

    # -- how far the proxy can be trusted ----------------------------------------------------

    def fidelity(self, seed: int = 0) -> list[Order]:
        """How the first rung, the parameters and the MACs ordered what was found at the end.

        By what the evaluator names first, over the candidates that reached the last rung: a
        stopped one has no final value. Empty where the evaluator has no rungs.
        Empty with fewer than ``FEWEST_ORDERED`` of them: an interval would say nothing.
        """
        by, final = self._ordered()
        return [kendall(name, values, final, seed) for name, values in by.items()]

    def one_size(self, seed: int = 0) -> OneSize | None:
        """The same within narrow bands of cost, and whether the run can rank designs there.

        ``None`` where ``fidelity`` is empty.
        """
        by, final = self._ordered()
        if not by:
            return None
        counts = {
            name: [record(trial).metrics[name] for trial in self.complete()]
            for name in ("macs", "params")
        }
        noise = pooled(self._repeats(self.config.declaration.quality).values())
        return one_size(counts["macs"], counts["params"], by, final, noise, seed)

    def _ordered(self) -> tuple[dict[str, list[float]], list[float]]:
        """What orders the candidates that reached the end, and their final losses."""
        trials = self.complete()
        declared = self.config.declaration
        if len(trials) < FEWEST_ORDERED or not declared.fidelities:
            return {}, []
        goal, first = declared.quality, declared.fidelities[0]
        by = {
            f"{goal.name} at {declared.step} {first}": [
                goal.loss(record(trial).curve[first - 1][goal.name]) for trial in trials
            ],
            "params": [-record(trial).metrics["params"] for trial in trials],
            "macs": [-record(trial).metrics["macs"] for trial in trials],
        }
        return by, [goal.loss(record(trial).metrics[goal.name]) for trial in trials]

    def hypervolumes(self) -> list[tuple[int, float]]:
        """Hypervolume after each complete trial, as a share of the final one.

        The reference point is the worst value of every objective over all complete
        trials, so that the share is comparable within this run alone.
        """
        goals = self.config.goals
        trials = sorted(self.complete(), key=lambda t: t.datetime_complete or t.datetime_start)  # type: ignore[arg-type, return-value]
        points = np.array([losses(goals, record(trial).metrics) for trial in trials])
        if len(points) < 2:
            return []
        reference = points.max(axis=0) + 1e-9 * np.abs(points.max(axis=0))
        whole = pareto.hypervolume(points[pareto.front(points)], reference)
        if not whole:
            return []
        # Only a point that joins the front adds volume: 1,000 trials in a second.
        best, volume, found = points[:0], 0.0, []
        for trial, point in zip(trials, points, strict=True):
            if not (best <= point).all(axis=1).any():
                best = np.vstack([best, point])
                best = best[pareto.front(best)]
                volume = pareto.hypervolume(best, reference)
            found.append((trial.number, volume / whole))
        return found

    # -- as files ----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The result as the contract has it."""
        size, found = self.one_size(), self.recommendation
        groups = found.groups if found else {}
        return {
            "schema": 1,
            "run": self.run.label,
            "space": self.config.space.get("name"),
            "budget": dict(as_mapping(self.config.budgets)),
            "objectives": list(self.config.objectives),
            "latency": self.config.latency,
            "data": self.config.data,
            "trials": self.counts(),
            "interrupted": returned(self.trials),
            "failures": self.failures(),
            "turned_down": self.rejected(),
            "seconds": self.seconds(),
            "saved_by_rungs": self.saving(),
            "fidelity": [asdict(order) for order in self.fidelity()],
            "one_size": size and asdict(size) | {"doubts": size.doubts},
            "noise": self.noise and asdict(self.noise),
            "recommended": found and found.to_dict(),
            "front": [
                member.to_dict() | {"group": groups.get(member.trial)} for member in self.front
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """The front as flat rows; a mean is called by the short name of its metric."""
        declared, found = self.config.declaration, self.recommendation
        rows = []
        for member in self.front:
            seeds = member.confirmation
            mean, std = (seeds.mean, seeds.std) if seeds else ({}, {})
            first, *others = declared.metrics
            rows.append(
                {"trial": member.trial, "id": member.id}
                | member.metrics
                | {
                    "latency_margin_ms": member.latency and member.latency["margin_ms"],
                    "latency_source": member.latency and member.latency["source"],
                    confirmed(first): mean.get(first.name),
                    "confirmed_std": std.get(first.name),
                    **{confirmed(metric): mean.get(metric.name) for metric in others},
                    "seeds": seeds.seeds if seeds else 1,
                    **{metric.name: mean.get(metric.name) for metric in declared.tests},
                    "dethroned": member.dethroned if seeds else None,
                    "group": found and found.groups.get(member.trial),
                    "recommended": found is not None and member.trial == found.member.trial,
                }
            )
        return rows

    def write(self) -> None:
        """Write ``pareto.json``, ``pareto.csv`` and the architectures of the front."""
        with reported(self.run.label):
            document = json.dumps(self.to_dict(), indent=1, allow_nan=False)
            files.write(self.run.path / "pareto.json", document + "\n")
            text = io.StringIO()
            rows = self.rows()
            if rows:
                writer = csv.DictWriter(text, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            files.write(self.run.path / "pareto.csv", text.getvalue())
            current = {f"{member.trial:03d}.yaml": member for member in self.front}
            for path in self.run.architectures.glob("*.yaml"):
                if path.name not in current:
                    path.unlink()
            for name, member in current.items():
                member.architecture.save(self.run.architectures / name)
