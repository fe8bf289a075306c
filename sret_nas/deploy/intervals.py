"""How far a share that was counted may be from the true one. No torch here."""

from __future__ import annotations

Z_95 = 1.959963984540054
"""Standard deviations of a normal distribution that hold 95% of it, to both sides."""


def wilson(right: int, images: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a share, which holds near 0 and 1 too.

    Args:
        right: How many of them.
        images: Of how many, at least 1.
    """
    share, weight = right / images, Z_95**2 / images
    middle = (share + weight / 2) / (1 + weight)
    half = (share * (1 - share) * weight + weight**2 / 4) ** 0.5 / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)
