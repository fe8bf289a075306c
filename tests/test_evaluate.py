"""One suite that every evaluator passes; a new one is one line in ``EVALUATORS``."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from sret_nas.arch import Architecture, Stage
from sret_nas.data import DataSet, load_data
from sret_nas.evaluate import Evaluator, Metrics, ProxyEvaluator, TableEvaluator
from sret_nas.graphs import Recorder, Step
from sret_nas.proxy import Proxy
from sret_nas.training import EpochResult, Trainer

PROXY = Proxy(image_size=16, stem_stride=4, width=0.5, epochs=4, subset=64, val_images=30, batch=16)


def arch(heads: int = 2) -> Architecture:
    return Architecture(
        stages=(Stage(heads=heads, head_dim=8, recursions=2, groups=(8, 2), mlp_ratio=1.0),)
    )


def data() -> DataSet:
    return load_data(**PROXY.load_options())


def proxy_evaluator() -> Evaluator:
    return ProxyEvaluator(PROXY, data())


def table_evaluator() -> Evaluator:
    def curve(arch: Architecture, seed: int) -> list[EpochResult]:
        level = int(arch.id, 16) % 97 / 97 + seed / 100
        return [
            EpochResult(e, level + 2 / e, level + 1 / e, 1 / (1 + level + 1 / e), 0.5, 64)
            for e in (1, 2, 3, 4)
        ]

    return TableEvaluator((1, 2, 4), curve, test=lambda arch, seed: (0.5, 0.25))


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


EVALUATORS = [proxy_evaluator, table_evaluator]


@pytest.fixture(params=EVALUATORS, ids=lambda make: make.__name__)
def evaluator(request: pytest.FixtureRequest) -> Iterator[Evaluator]:
    make: Callable[[], Evaluator] = request.param
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make()
    torch.set_num_threads(before)


def without_time(metrics: Metrics) -> Metrics:
    curve = tuple(replace(result, seconds=0.0) for result in metrics.curve)
    return replace(metrics, seconds=0.0, curve=curve)


def test_rungs_ascend_and_training_ends_at_the_last(evaluator: Evaluator):
    rungs = evaluator.rungs
    assert list(rungs) == sorted(set(rungs)) and rungs[0] >= 1
    metrics = evaluator.evaluate(arch())
    assert metrics.epochs == rungs[-1]
    assert [result.epoch for result in metrics.curve] == list(range(1, rungs[-1] + 1))


def test_metrics_sum_up_the_curve(evaluator: Evaluator):
    metrics = evaluator.evaluate(arch())
    last = metrics.curve[-1]
    assert (metrics.val_loss, metrics.val_accuracy) == (last.val_loss, last.val_accuracy)
    assert math.isfinite(metrics.val_loss) and 0 <= metrics.val_accuracy <= 1
    assert metrics.images == sum(result.images for result in metrics.curve) > 0
    assert metrics.seconds == pytest.approx(sum(result.seconds for result in metrics.curve))


def test_same_seed_same_metrics_another_seed_others(evaluator: Evaluator):
    one, two = (without_time(evaluator.evaluate(arch(), seed=3)) for _ in range(2))
    assert one == two
    assert evaluator.evaluate(arch(), seed=4).val_loss != one.val_loss


def test_architectures_differ(evaluator: Evaluator):
    assert evaluator.evaluate(arch(2)).val_loss != evaluator.evaluate(arch(4)).val_loss


def test_report_comes_after_each_epoch_and_changes_nothing(evaluator: Evaluator):
    seen: list[EpochResult] = []
    silent = evaluator.evaluate(arch())
    reported = evaluator.evaluate(arch(), report=lambda result: not seen.append(result))
    assert tuple(seen) == reported.curve
    assert without_time(silent) == without_time(reported)


@pytest.mark.parametrize("confirm", [False, True])
def test_report_stops_the_training(evaluator: Evaluator, confirm: bool):
    run = evaluator.confirm if confirm else evaluator.evaluate
    metrics = run(arch(), report=lambda result: result.epoch < 2)
    assert metrics.epochs == 2 and len(metrics.curve) == 2
    assert without_time(metrics).curve == without_time(evaluator.evaluate(arch())).curve[:2]
    assert metrics.test_loss is None and metrics.test_accuracy is None


def test_what_report_raises_passes_through(evaluator: Evaluator):
    def report(_: EpochResult) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator.evaluate(arch(), report=report)


def test_only_confirmation_has_test_results(evaluator: Evaluator):
    plain, confirmed = evaluator.evaluate(arch(), seed=1), evaluator.confirm(arch(), seed=1)
    assert plain.test_loss is None and plain.test_accuracy is None
    assert confirmed.test_loss is not None and 0 <= (confirmed.test_accuracy or -1) <= 1
    without = replace(without_time(confirmed), test_loss=None, test_accuracy=None)
    assert without == without_time(plain)


def test_proxy_evaluator_opens_test_images_in_confirmation_alone():
    opened = []
    source = data()
    assert source.open_test is not None
    real = source.open_test
    watched = replace(source, open_test=lambda: opened.append(1) or real())
    evaluator = ProxyEvaluator(PROXY, watched)
    evaluator.evaluate(arch())
    assert not opened
    evaluator.confirm(arch())
    assert opened == [1]


def test_proxy_evaluator_without_test_images_confirms_on_validation_alone():
    metrics = ProxyEvaluator(PROXY, replace(data(), open_test=None)).confirm(arch())
    assert metrics.epochs == 4 and metrics.test_loss is None


def test_measured_speed_is_a_positive_number_of_images():
    assert ProxyEvaluator(PROXY, data()).images_per_second(arch()) > 0


def test_why_steps_were_not_recorded_is_kept(monkeypatch: pytest.MonkeyPatch):
    class Broken(NullRecorder):
        def record(self, step: Step) -> Step:
            raise RuntimeError("no capture here")

    def why(recorder: Recorder) -> str | None:
        made = functools.partial(Trainer, graphs=recorder)
        monkeypatch.setattr("sret_nas.evaluate.Trainer", made)
        return ProxyEvaluator(PROXY, data()).evaluate(arch()).why_eager

    assert why(Broken()) == "no capture here"
    assert why(NullRecorder()) is None


def test_speed_is_measured_once_steps_are_recorded(monkeypatch: pytest.MonkeyPatch):
    recorder, short = NullRecorder(), data()
    short = replace(short, train=short.train.first(PROXY.batch))  # one step an epoch
    monkeypatch.setattr("sret_nas.evaluate.Trainer", functools.partial(Trainer, graphs=recorder))
    assert ProxyEvaluator(PROXY, short).images_per_second(arch()) > 0
    assert recorder.replays == 2  # the first, and the measured one
