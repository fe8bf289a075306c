"""Augmentation of whole batches against one image at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sret_nas.data import Augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 64, channels: int = 3, side: int = 6) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, side, side), generator=generator(9)).byte()


def augmented(augment: Augment, images: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """One batch, as of an epoch of one step."""
    (draws_3B,) = augment.draw((1, len(images)), images.shape[-1], g)
    return augment(images, *draws_3B)


def test_normalise_is_the_textbook_formula():
    images = batch()
    mean, std = torch.tensor([0.1, 0.5, 0.7]), torch.tensor([0.2, 0.3, 0.4])
    expected = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    got = Augment(mean.tolist(), std.tolist()).normalise(images)
    torch.testing.assert_close(got, expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.sampled_from([1, 3]), st.integers(0, 99))
def test_every_result_is_a_shift_or_mirror_of_its_own_image(
    pad: int, flip: bool, channels: int, seed: int
):
    images = batch(8, channels)
    augment = Augment([0.0] * channels, [1 / 255] * channels, flip=flip, pad=pad)
    for image, got in zip(images, augmented(augment, images, generator(seed)), strict=True):
        padded = torch.nn.functional.pad(image, (pad,) * 4).float()
        windows = padded.unfold(1, 6, 1).unfold(2, 6, 1).flatten(1, 2).unbind(1)
        mirrors = [window.flip(-1) for window in windows] if flip else []
        assert any(torch.allclose(got, w, atol=1e-3) for w in (*windows, *mirrors))


def test_flip_and_shift_take_every_value():
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 1] = 255
    augment = Augment([0.0], [1.0], flip=True, pad=1)
    out = augmented(augment, image.expand(500, -1, -1, -1), generator())
    places = {tuple(at.tolist()) for at in out[:, 0].nonzero()[:, 1:]}
    # One pixel left of the middle: three shifts down, three across, and mirrored.
    assert places == {(y, x) for y in (1, 2, 3) for x in (0, 1, 2, 3, 4)}


def test_same_generator_same_images_and_the_global_one_is_untouched():
    augment = Augment([0.5], [0.5], flip=True, pad=2)
    images = batch(16, 1)
    before = torch.get_rng_state()
    one, again, other = (augmented(augment, images, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_mixup_mixes_images_and_targets_alike(alpha: float):
    augment = Augment([0.0], [1.0], mixup=alpha)
    x = torch.arange(4.0).view(4, 1, 1, 1)
    y = torch.eye(4)
    shares = augment.shares(400, generator())
    for share in shares:
        mixed, targets = augment.mix(x, y, torch.tensor(share))
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        torch.testing.assert_close(targets @ torch.arange(4.0), mixed.flatten())
        assert targets[0, 0].item() == pytest.approx(share)
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert torch.tensor(shares).mean().item() == pytest.approx(0.5, abs=0.06)
    assert torch.tensor(shares).var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)
