"""Curves over the steps of a training as small SVG pictures, without a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 320, 150, 40, 20
MOST_DOTS = 40
"""Points of a curve that are seen one by one."""
PAPER = (
    "svg{font:11px system-ui,sans-serif;background:#fff;color:#1c2330}"
    "@media(prefers-color-scheme:dark){svg{background:#171b22;color:#e4e8ef}}"
    "text{fill:currentColor}.axis{fill:none;stroke:currentColor;opacity:.35}"
    "polyline{fill:none;stroke-width:2}.val{stroke:#2f6fde}"
    ".train{stroke:#8c95a4;stroke-dasharray:4 3}.dot{fill:#2f6fde}"
)


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: In a legend.
        values: One a step.
        kind: ``val``, the solid one, or ``train``, the dashed one.
    """

    name: str
    values: Sequence[float]
    kind: str = "val"


def curves(
    lines: Sequence[Line],
    step: str,
    label: str,
    *,
    show: Callable[[float], str] = "{:.3g}".format,
    mark: int | None = None,
    paper: bool = False,
) -> str:
    """Curves over the same steps, the last one on top.

    Args:
        lines: As many values each, at least one.
        step: What a step is called.
        label: What a reader who sees no picture is told.
        show: A value on the axis.
        mark: A step that is marked, from 1.
        paper: Whether it is a file of its own, with its own ground, style and legend; else it is
            part of a page that has the first two.
    """
    w, h = WIDTH, HEIGHT
    count = len(lines[0].values)
    low = min(min(line.values) for line in lines)
    high = max(max(line.values) for line in lines)
    span, last = (high - low) or 1.0, max(count - 1, 1)

    def at(number: int, value: float) -> tuple[float, float]:
        x = LEFT + 8 + (w - LEFT - 20) * (number - 1) / last
        return round(x, 1), round(10 + (h - BOTTOM - 18) * (high - value) / span, 1)

    parts = [f'<path d="M{LEFT} 4V{h - BOTTOM}H{w - 6}" class="axis"/>']
    for value in dict.fromkeys((high, low)):
        y = at(1, value)[1]
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4}" text-anchor="end">{show(value)}</text>')
    parts += [
        f'<text x="{at(number, low)[0]}" y="{h - 6}" text-anchor="middle">{number}</text>'
        for number in dict.fromkeys((1, count))
    ]
    parts.append(
        f'<text x="{(LEFT + w) / 2}" y="{h - 6}" text-anchor="middle">{escape(step)}</text>'
    )
    if mark is not None:
        x = at(mark, low)[0]
        parts.append(f'<path d="M{x} 4V{h - BOTTOM}" class="axis mark"/>')
    for line in lines:
        points = [at(i, value) for i, value in enumerate(line.values, 1)]
        drawn = " ".join(f"{x},{y}" for x, y in points)
        parts.append(f'<polyline points="{drawn}" class="{line.kind}"/>')
        if line.kind == "val" and len(points) <= MOST_DOTS:
            parts += [f'<circle cx="{x}" cy="{y}" r="2.6" class="dot"/>' for x, y in points]
    if paper:
        for row, line in enumerate(reversed(lines)):
            y = 14 + 15 * row
            parts.append(f'<polyline points="{w - 96},{y} {w - 74},{y}" class="{line.kind}"/>')
            parts.append(f'<text x="{w - 68}" y="{y + 4}">{escape(line.name)}</text>')
    own = f'xmlns="http://www.w3.org/2000/svg" width="{2 * w}" height="{2 * h}" ' if paper else ""
    style = f"<style>{PAPER}</style>" if paper else ""
    return (
        f'<svg {own}class="curve" viewBox="0 0 {w} {h}" role="img" aria-label="{escape(label)}">'
        f"{style}{''.join(parts)}</svg>" + "\n" * paper
    )
