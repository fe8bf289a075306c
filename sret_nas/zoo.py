"""The published architectures, at their published sizes.

Figures: SReT, arXiv 2111.05297, code ``szq0214/SReT`` (MIT). Each name also
exists with ``_384`` and ``_512`` for those image sizes; there, group counts that
do not divide the tokens are mapped as ``Architecture.at`` says. ``permute`` is
``fixed``: published weights were trained under random permutations, so any
permutation serves, and evaluation becomes deterministic.
"""

from __future__ import annotations

from sret_nas.arch import PRESETS as PRESETS
from sret_nas.arch import Architecture, Stage

Slices = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

WHOLE: Slices = ((1, 1), (1, 1), (1, 1))
SLICED: Slices = ((8, 2), (4, 1), (1, 1))
SLICED_16_14: Slices = ((16, 1), (14, 1), (1, 1))


def sret(
    head_dim: int, heads: int, mlp_ratio: float, nll_ratio: float, groups: Slices
) -> Architecture:
    """A published shape: 2, 5 and 3 unique blocks, each applied twice.

    Args:
        head_dim: Channels per head in every stage.
        heads: Heads of the first stage; they double at each down-sampling.
        mlp_ratio: MLP hidden channels over width.
        nll_ratio: Hidden channels of the non-linear projection layer over width.
        groups: Slices per stage and loop.
    """
    return Architecture(
        stages=tuple(
            Stage(
                heads=heads << i,
                head_dim=head_dim,
                blocks=blocks,
                recursions=2,
                groups=groups[i],
                mlp_ratio=mlp_ratio,
                nll_ratio=nll_ratio,
            )
            for i, blocks in enumerate((2, 5, 3))
        )
    )


def _published() -> dict[str, Architecture]:
    shapes = {
        "sret_t": (32, 2, 3.6, 1.0, SLICED),
        "sret_lt": (32, 2, 4.0, 1.0, SLICED),
        "sret_lt_16_14": (32, 2, 4.0, 1.0, SLICED_16_14),
        "sret_s": (42, 3, 3.0, 2.0, SLICED),
    }
    named = {}
    for name, (head_dim, heads, mlp_ratio, nll_ratio, groups) in shapes.items():
        named[name] = sret(head_dim, heads, mlp_ratio, nll_ratio, groups)
        named[f"{name}_wo_slice"] = sret(head_dim, heads, mlp_ratio, nll_ratio, WHOLE)
    return named


PUBLISHED = _published()
"""The published variants at 224 px by name."""

PRESETS.update(PUBLISHED)
PRESETS.update(
    (f"{name}_{size}", arch.at(image_size=size))
    for size in (384, 512)
    for name, arch in PUBLISHED.items()
)
