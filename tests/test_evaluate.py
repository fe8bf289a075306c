"""One suite that every evaluator passes: those that are registered, and the table of tests."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sret_nas.arch import Architecture, Stage
from sret_nas.data import DataSet, load_data
from sret_nas.errors import ConfigError, EvaluationError, UsageError
from sret_nas.evaluate import Evaluation, Evaluator, Progress
from sret_nas.evaluators.proxy import ProxyEvaluator
from sret_nas.evaluators.registry import EVALUATORS, load, registered
from sret_nas.evaluators.table import TableEvaluator
from sret_nas.graphs import Recorder, Step
from sret_nas.proxy import Proxy
from sret_nas.runner.lease import Lease, Leased
from sret_nas.training import EpochResult, Trainer

PROXY = Proxy(image_size=16, stem_stride=4, width=0.5, epochs=4, subset=64, val_images=30, batch=16)
CPU = torch.device("cpu")


def arch(heads: int = 2) -> Architecture:
    return Architecture(
        image_size=32,
        num_classes=10,
        stages=(Stage(heads=heads, head_dim=8, recursions=2, groups=(8, 2), mlp_ratio=1.0),),
    )


@functools.cache
def data() -> DataSet:
    return load_data(**PROXY.load_options())


def table() -> Evaluator:
    def curve(arch: Architecture, seed: int) -> list[EpochResult]:
        level = int(arch.id, 16) % 97 / 97 + seed / 100
        return [
            EpochResult(e, level + 2 / e, level + 1 / e, 1 / (1 + level + 1 / e), 0.5, 64)
            for e in (1, 2, 3, 4)
        ]

    return TableEvaluator((1, 2, 4), curve, test=lambda arch, seed: (0.5, 0.25))


MAKE: dict[str, Callable[[], Evaluator]] = {"table": table} | {
    name: functools.partial(load(name), PROXY, data(), CPU) for name in EVALUATORS
}


STEPWISE = [name for name, make in MAKE.items() if make().declaration.step]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=MAKE)
def evaluator(request: pytest.FixtureRequest) -> Evaluator:
    return MAKE[request.param]()


@pytest.fixture(params=STEPWISE)
def stepwise(request: pytest.FixtureRequest) -> Evaluator:
    return MAKE[request.param]()


def without_time(found: Evaluation) -> Evaluation:
    curve = tuple(replace(progress, seconds=0.0) for progress in found.curve)
    return replace(found, seconds=0.0, curve=curve)


def test_every_registered_evaluator_is_tried() -> None:
    assert set(EVALUATORS) == set(MAKE) - {"table"} and {"proxy", "dss"} <= set(EVALUATORS)


def test_what_is_found_is_what_is_declared(evaluator: Evaluator) -> None:
    declared, found = evaluator.declaration, evaluator.evaluate(arch())
    assert list(found.metrics) == [metric.name for metric in declared.metrics]
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert found.seconds > 0 and found.step == declared.full and not found.tests
    assert [one.step for one in found.curve] == list(range(1, declared.full + 1))
    named = {metric.name for metric in (*declared.metrics, *declared.progress)}
    assert all(set(one.metrics) == named for one in found.curve)


def test_metrics_sum_up_the_curve(stepwise: Evaluator) -> None:
    found = stepwise.evaluate(arch())
    last = found.curve[-1].metrics
    assert found.metrics == {name: last[name] for name in found.metrics}
    assert all(progress.images > 0 for progress in found.curve)
    assert found.seconds == pytest.approx(sum(progress.seconds for progress in found.curve))


def test_the_same_seed_gives_the_same(evaluator: Evaluator) -> None:
    one, two = (without_time(evaluator.evaluate(arch(), seed=3)) for _ in range(2))
    assert one == two


def test_another_seed_gives_others_where_seeds_are_declared_to_matter(
    evaluator: Evaluator,
) -> None:
    three, four = (evaluator.evaluate(arch(), seed=seed).metrics for seed in (3, 4))
    assert (three != four) == (evaluator.declaration.seeds > 1)


def test_torch_is_left_as_it_was(evaluator: Evaluator) -> None:
    before = torch.get_rng_state()
    evaluator.evaluate(arch(), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_architectures_differ(evaluator: Evaluator) -> None:
    assert evaluator.evaluate(arch(2)).metrics != evaluator.evaluate(arch(4)).metrics


def test_report_comes_after_each_step_and_changes_nothing(evaluator: Evaluator) -> None:
    seen: list[Progress] = []
    silent = evaluator.evaluate(arch())
    reported = evaluator.evaluate(arch(), report=lambda progress: not seen.append(progress))
    assert tuple(seen) == reported.curve
    assert without_time(silent) == without_time(reported)


@pytest.mark.parametrize("confirm", [False, True])
def test_report_stops_the_evaluation(stepwise: Evaluator, confirm: bool) -> None:
    run = stepwise.confirm if confirm else stepwise.evaluate
    found = run(arch(), report=lambda progress: progress.step < 2)
    assert found.step == 2 and len(found.curve) == 2
    assert without_time(found).curve == without_time(stepwise.evaluate(arch())).curve[:2]
    assert not found.tests


@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: Leased(e, Lease("cpu"))])
@pytest.mark.parametrize("stop", [1, 2])
def test_what_was_ended_early_goes_on_to_the_same_result(
    stepwise: Evaluator, wrap: Callable[[Evaluator], Evaluator], stop: int, tmp_path: Path
) -> None:
    """Bit by bit, and every step is told: the earlier ones as they were."""
    made, folder = wrap(stepwise), tmp_path / "state"
    first = made.resume(arch(), folder, seed=5, report=lambda progress: progress.step < stop)
    assert without_time(first).curve == without_time(made.evaluate(arch(), seed=5)).curve[:stop]
    told: list[Progress] = []
    rest = made.resume(arch(), folder, seed=5, report=lambda progress: not told.append(progress))
    assert tuple(told) == rest.curve
    without_images = [replace(one, seconds=0.0, images=0) for one in rest.curve]
    whole = stepwise.evaluate(arch(), seed=5)
    assert without_images == [replace(one, seconds=0.0, images=0) for one in whole.curve]
    assert rest.metrics == whole.metrics


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Epochs that are really trained, as they come."""
    found: list[int] = []
    train = Trainer.train_epoch

    def noted(self: Trainer, *args: Any) -> tuple[float, int]:
        result = train(self, *args)
        found.append(self.epoch)
        return result

    monkeypatch.setattr(Trainer, "train_epoch", noted)
    return found


def test_epochs_that_are_done_are_not_trained_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, trained = ProxyEvaluator(PROXY, data(), CPU), counting(monkeypatch)
    made.resume(arch(), tmp_path, report=lambda progress: progress.step < 2)
    rest = made.resume(arch(), tmp_path)
    assert trained == [1, 2, 3, 4]
    assert [one.seconds > 0 for one in rest.curve] == [False, False, True, True]
    assert [one.images > 0 for one in rest.curve] == [False, False, True, True]


def test_a_state_that_is_broken_costs_its_epochs_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, trained = ProxyEvaluator(PROXY, data(), CPU), counting(monkeypatch)
    made.resume(arch(), tmp_path, report=lambda progress: progress.step < 2)
    (state,) = tmp_path.iterdir()
    state.write_bytes(state.read_bytes()[:-100])
    found = made.resume(arch(), tmp_path)
    assert trained == [1, 2, 1, 2, 3, 4]
    assert without_time(found) == without_time(made.evaluate(arch()))


def test_what_report_raises_passes_through(stepwise: Evaluator) -> None:
    def report(_: Progress) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stepwise.evaluate(arch(), report=report)


def test_only_confirmation_has_test_results(evaluator: Evaluator) -> None:
    plain, confirmed = evaluator.evaluate(arch(), seed=1), evaluator.confirm(arch(), seed=1)
    assert not plain.tests
    assert {metric.name for metric in evaluator.declaration.tests} <= set(confirmed.tests)
    assert without_time(replace(confirmed, tests={})) == without_time(plain)


def test_what_it_costs_is_measured(evaluator: Evaluator) -> None:
    work = evaluator.work(arch())
    assert work.amount > 0 and work.per_second > 0 and work.unit
    evaluator.fits(arch())


# -- the proxy -------------------------------------------------------------------------------


class NullRecorder:
    """Repeats a step by running it."""

    def __init__(self) -> None:
        self.replays = 0

    def running(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def observe(self) -> None: ...

    def record(self, step: Step) -> Step:
        def replay() -> None:
            self.replays += 1
            step()

        return replay


def test_proxy_evaluator_opens_test_images_in_confirmation_alone():
    opened = []
    source = data()
    assert source.open_test is not None
    real = source.open_test
    watched = replace(source, open_test=lambda: opened.append(1) or real())
    evaluator = ProxyEvaluator(PROXY, watched)
    evaluator.evaluate(arch())
    assert not opened
    found = evaluator.confirm(arch())
    assert opened == [1] and 0 <= found.tests["test_accuracy"] <= 1


def test_proxy_evaluator_without_test_images_confirms_on_validation_alone():
    found = ProxyEvaluator(PROXY, replace(data(), open_test=None)).confirm(arch())
    assert found.step == 4 and not found.tests


def test_measured_speed_is_a_positive_number_of_images():
    evaluator = ProxyEvaluator(PROXY, data())
    assert evaluator.images_per_second(arch()) > 0
    work = evaluator.work(arch())
    assert work.amount == PROXY.images(4, data()) and work.unit == "training images"


def test_why_steps_were_not_recorded_is_kept(monkeypatch: pytest.MonkeyPatch):
    class Broken(NullRecorder):
        def record(self, step: Step) -> Step:
            raise RuntimeError("no capture here")

    def why(recorder: Recorder) -> str | None:
        made = functools.partial(Trainer, graphs=recorder)
        monkeypatch.setattr("sret_nas.evaluators.proxy.Trainer", made)
        return ProxyEvaluator(PROXY, data()).evaluate(arch()).why_eager

    assert why(Broken()) == "no capture here"
    assert why(NullRecorder()) is None


def test_speed_is_measured_once_steps_are_recorded(monkeypatch: pytest.MonkeyPatch):
    recorder, short = NullRecorder(), data()
    short = replace(short, train=short.train.first(PROXY.batch))  # one step an epoch
    made = functools.partial(Trainer, graphs=recorder)
    monkeypatch.setattr("sret_nas.evaluators.proxy.Trainer", made)
    assert ProxyEvaluator(PROXY, short).images_per_second(arch()) > 0
    assert recorder.replays == 2  # the first, and the measured one


# -- names, and other people's code ----------------------------------------------------------

OTHERS = """
from dataclasses import dataclass
from sret_nas import Declaration, Evaluation, Evaluator, Metric, Progress

METRIC = Metric(name="score", title="score", direction="maximize")

@dataclass
class Own(Evaluator):
    proxy: object
    data: object
    device: object

    @property
    def declaration(self):
        return Declaration(metrics=(METRIC,), step="round", fidelities=(1, 2), seeds=1)

    def evaluate(self, arch, *, seed=0, report=None):
        curve = []
        for step in (1, 2):
            curve.append(Progress(step, {{"score": float(arch.depth + step)}}))
            if report is not None and not report(curve[-1]):
                break
        {returns}

def no_evaluator(proxy, data, device):
    return 3

def two(proxy, data):
    return None

def fails(proxy, data, device):
    raise OSError("no such table")
"""
GOOD = "return Evaluation(curve[-1].metrics, 0.1, tuple(curve))"


def others(folder: Path, returns: str = GOOD, name: str = "Own") -> Evaluator:
    module = f"theirs_{abs(hash(returns))}"
    (folder / f"{module}.py").write_text(OTHERS.format(returns=returns))
    return load(f"{module}:{name}", folder, allow=True)(PROXY, data(), CPU)


def test_a_class_of_somebody_elses(tmp_path: Path) -> None:
    made = others(tmp_path)
    assert made.evaluate(arch()).metrics == {"score": 4.0}
    assert made.evaluate(arch(), report=lambda progress: False).step == 1
    assert made.resume(arch(), tmp_path).metrics == {"score": 4.0}
    assert made.confirm(arch()).step == 2 and made.work(arch()).per_second > 0
    made.fits(arch())


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        ("return 3", "returned an int, not an Evaluation"),
        ("return Evaluation({}, 0.1, tuple(curve))", "its result has nothing; declared: score"),
        ("return Evaluation({'scor': 1.0}, 0.1, tuple(curve))", "its result has scor"),
        ("return Evaluation({'score': '1'}, 0.1, tuple(curve))", "score is a str, not a number"),
        ("return Evaluation({'score': True}, 0.1, tuple(curve))", "score is a bool"),
        ("return Evaluation({'score': 1.0}, 0.1)", "its curve has 0 steps; declared: 2"),
        (
            "return Evaluation({'score': 1.0}, 0.1, tuple(curve[1:]))",
            "does not have each step from 1",
        ),
        ("report(Progress(1, {'loss': 1.0})) if report else 0", "step 1 has loss; declared: score"),
        ("return Evaluation({'score': 1.0}, 0.1, tuple(curve[:1]))", "has 1 steps; declared: 2"),
        ("return Evaluation([1.0], 0.1, tuple(curve))", "metrics are a list, not a mapping"),
        ("return Evaluation({'score': 1.0}, 'soon', tuple(curve))", "given seconds='soon'"),
        ("return Evaluation({'score': 1.0}, -1.0, tuple(curve))", "given seconds=-1.0"),
        ("report((1, 2.0)) if report else 0", "a step is a tuple, not a Progress"),
    ],
)
def test_what_was_not_declared_ends_the_search(tmp_path: Path, returns: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^evaluator 'theirs_\d+:Own': ") as caught:
        others(tmp_path, returns).evaluate(arch(), report=lambda _: True)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("returns", "reason", "message"),
    [
        (
            "return Evaluation({'score': float('nan')}, 0.1, tuple(curve))",
            "not finite",
            "score is nan",
        ),
        ("return Evaluation({'score': 1 / 0}, 0.1)", "ZeroDivisionError", "division by zero"),
        ("raise KeyError", "KeyError", "without a word"),
        ("raise SystemExit(0)", "SystemExit", "0"),
    ],
)
def test_a_candidate_that_cannot_be_evaluated_fails_alone(
    tmp_path: Path, returns: str, reason: str, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        others(tmp_path, returns).evaluate(arch())
    assert caught.value.reason == reason


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_the_search_raises_is_not_the_evaluators(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def report(_: Progress) -> bool:
        raise error("mine")

    with pytest.raises(error, match=r"^mine$"):
        others(tmp_path).evaluate(arch(), report=report)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_evaluator", "returned an int"),
        ("two", "TypeError: two"),
        ("fails", "OSError: no such table"),
        ("absent", "has no function or class 'absent'"),
    ],
)
def test_what_is_no_evaluator_is_said(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match="evaluator") as caught:
        others(tmp_path, name=name)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["proxi", "", "a:", ":b", "a-b:c", "a:b:c", "a..b:c"])
def test_an_unknown_name_is_said_with_what_is_allowed(name: str) -> None:
    with pytest.raises(UsageError, match=f"^evaluator: given '{name}'") as caught:
        load(name)
    assert caught.value.hint == "allowed: " + ", ".join([*registered(), "or module:name"])


def test_code_needs_leave_and_the_content_it_had(tmp_path: Path) -> None:
    others(tmp_path)
    (path,) = tmp_path.glob("theirs_*.py")
    name = f"{path.stem}:Own"
    with pytest.raises(ConfigError, match="would run the code in") as caught:
        load(name, tmp_path)
    assert "--allow-code" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="is not the one that the run was begun with"):
        load(name, tmp_path, allow=True, expected="0" * 16)


def test_other_packages_register_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_package.py").write_text(OTHERS.format(returns=GOOD))
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: theirs\nVersion: 1\n")
    entry = "[sret_nas.evaluators]\ntheirs = their_package:Own\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(tmp_path)
    assert registered()["theirs"] == "their_package:Own"
    made = load("theirs", allow=True)(PROXY, data(), CPU)
    assert made.evaluate(arch()).metrics == {"score": 4.0}


def test_numbers_of_numpy_become_plain_ones(tmp_path: Path) -> None:
    returns = "import numpy; return Evaluation({'score': numpy.float32(2)}, 0.1, tuple(curve))"
    found = others(tmp_path, returns).evaluate(arch())
    assert found.metrics == {"score": 2.0} and type(found.metrics["score"]) is float


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("Metric(name='Bad-Name', title='x')", "ConfigError: name: given 'Bad-Name'"),
    ],
)
def test_a_module_that_fails_is_not_said_to_be_absent(
    tmp_path: Path, body: str, message: str
) -> None:
    (tmp_path / "breaks.py").write_text(f"from sret_nas import Metric\n{body}\n")
    with pytest.raises(ConfigError, match=r"evaluator: module 'breaks': ") as caught:
        load("breaks:Own", tmp_path, allow=True)
    assert message in str(caught.value) and "put breaks.py" not in str(caught.value.hint)


def test_a_proxy_that_evaluates_otherwise_goes_on_by_what_it_does(tmp_path: Path) -> None:
    class Other(ProxyEvaluator):
        def evaluate(self, arch: Any, *, seed: int = 0, report: Any = None) -> Any:
            return arch, seed, report

    other = Other.__new__(Other)
    assert other.resume("design", tmp_path, seed=3) == ("design", 3, None)
