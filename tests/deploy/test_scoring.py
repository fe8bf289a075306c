"""Scores against cases counted by hand, scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, top_k_accuracy_score

from sret_nas.deploy.scoring import Tally, score, wilson
from sret_nas.errors import SretNasError, UsageError


def logits_of(*probabilities: list[float]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_counted_by_hand() -> None:
    found = score(
        logits_of([0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]),
        torch.tensor([0, 1, 1, 1]),
        ["cat", "dog", "owl"],
    )
    assert found.images == 4
    assert found.top1 == 0.5
    assert found.top5 is None
    assert found.loss == pytest.approx(-(2 * math.log(0.3) + math.log(0.7) + math.log(0.8)) / 4)
    assert found.per_class == (1.0, 1 / 3, None)
    assert found.confusion.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert found.worst() == [("dog", 1 / 3, 3)]
    assert found.confused() == [("dog", "cat", 1), ("dog", "owl", 1)]
    assert found.confused(1) == [("dog", "cat", 1)]
    # Each image is alone in its bin: |0.7-1|, |0.8-1|, |0.4-0|, |0.6-0|.
    assert found.calibration_error == pytest.approx((0.3 + 0.2 + 0.4 + 0.6) / 4)


def test_one_bin_holds_several_images() -> None:
    found = score(
        logits_of(*[[0.98, 0.02]] * 3, [0.96, 0.04]), torch.tensor([0, 1, 1, 0]), ["a", "b"]
    )
    # All in the last bin: mean confidence 0.975, accuracy 0.5.
    assert found.calibration_error == pytest.approx(0.475)


def test_certainty_is_in_the_last_bin() -> None:
    found = score(torch.eye(2) * 1000, torch.tensor([0, 0]), ["a", "b"])
    assert found.calibration_error == pytest.approx(0.5)
    assert found.loss == pytest.approx(500)


@pytest.fixture(scope="module")
def random() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(9, (500,), generator=generator)
    logits = torch.randn(500, 9, generator=generator) * 2
    logits[torch.arange(500), labels] += 1.5
    return logits, labels


def test_as_scikit_learn_has_it(random: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = random
    found = score(logits, labels, "abcdefghi")
    probabilities = logits.double().softmax(1).numpy()
    assert found.top5 == top_k_accuracy_score(labels, probabilities, k=5)
    assert found.top1 == top_k_accuracy_score(labels, probabilities, k=1)
    assert found.loss == pytest.approx(log_loss(labels, probabilities), rel=1e-9)
    matrix = confusion_matrix(labels, logits.argmax(1))
    assert (found.confusion == matrix).all()
    assert found.per_class == pytest.approx(matrix.diagonal() / matrix.sum(1))


def test_the_calibration_error_is_that_of_its_definition(
    random: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = random
    confidence, taken = (value.numpy() for value in logits.double().softmax(1).max(1))
    error = 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            right = (taken == labels.numpy())[inside].mean()
            error += inside.mean() * abs(right - confidence[inside].mean())
    assert score(logits, labels, "abcdefghi").calibration_error == pytest.approx(error)


def test_batches_add_up(random: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = random
    whole, tally = score(logits, labels, "abcdefghi"), Tally("abcdefghi")
    for some, theirs in zip(logits.split(64), labels.split(64), strict=True):
        tally.add(some, theirs)
    found = tally.scores()
    assert (found.top1, found.top5, found.counts) == (whole.top1, whole.top5, whole.counts)
    assert found.loss == pytest.approx(whole.loss)
    assert found.calibration_error == pytest.approx(whole.calibration_error)


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 20), (7, 10), (99, 100)])
def test_the_interval_is_wilsons(right: int, images: int) -> None:
    known = binomtest(right, images).proportion_ci(method="wilson")
    assert wilson(right, images) == pytest.approx((known.low, known.high), abs=1e-12)
    assert 0 <= wilson(right, images)[0] <= right / images <= wilson(right, images)[1] <= 1


def test_equal_logits_are_no_success() -> None:
    found = score(torch.zeros(8, 8), torch.arange(8), "abcdefgh")
    assert found.top1 == 1 / 8
    assert found.top5 == 5 / 8


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="no images"):
        score(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "abc")
    with pytest.raises(UsageError, match=r"shape \(2, 4\); allowed: \(2, 3\)"):
        score(torch.zeros(2, 4), torch.tensor([0, 1]), "abc")
    with pytest.raises(SretNasError, match="logits of 1 of 2 images are not finite"):
        score(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.tensor([0, 1]), "ab")


def test_as_plain_data() -> None:
    found = score(torch.eye(2), torch.tensor([0, 0]), ["a", "b"]).to_dict()
    assert found["per_class"] == {"a": 0.5, "b": None}
    assert found["confusion"] == [["a", "a", 1], ["a", "b", 1]]
    assert found["images"] == 2
