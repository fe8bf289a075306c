"""An architecture as an SVG picture, for somebody who has never seen one.

A stage is a grid: a column for each block with weights of its own, a row for
each loop over them. What shares its weights has the same colour; a loop is an
arrow that returns, around a block (A A B B) or around the stage (A B A B); a
sliced attention is cut into as many pieces; twice the channels are twice the width.

No dependencies. Text is in the colour of its surroundings, so a page inlines the
picture in light and dark; on its own it follows the viewer's preference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from sret_nas.arch import Application, Architecture, Stage

WIDTH = 360
GUTTER = 62
"""Pixels left of the grid, for what every loop does."""
LINE = 11
COLUMNS = 6
ROWS = 6
PIECES = 16
"""The most columns, rows and pieces that are drawn; words say how many there really are."""
GOLDEN_DEGREES = 137.508
SHARED = {
    "all": "all loops of a block share all its weights",
    "attention": "loops of a block share its attention; every loop has an MLP of its own",
    "mlp": "loops of a block share its MLP; every loop has an attention of its own",
    "none": "every loop has weights of its own",
}
STYLE = (
    ".arch{font:10px system-ui,sans-serif;color:#1c2330}"
    "@media(prefers-color-scheme:dark){.arch{color:#e4e8ef}}"
    ".arch text{fill:currentColor}.arch .s{opacity:.72}.arch .h{font-weight:600;font-size:11px}"
    ".arch .l{fill:none;stroke-width:1.6}.arch .f{fill:none;stroke:currentColor;opacity:.5}"
    ".arch .n{fill:currentColor;opacity:.3}"
)


@dataclass(frozen=True)
class Cell:
    """One application of a block, as drawn; colours are CSS.

    Attributes:
        attention: Colour of the attention's weights.
        mlp: Colour of the MLP's weights.
        groups: Slices of the attention.
    """

    attention: str
    mlp: str
    groups: int


def draw(arch: Architecture, title: str = "") -> str:
    """The picture as the text of an SVG file.

    Args:
        arch: The architecture.
        title: What it is called; default its id.
    """
    title = title or f"architecture {arch.id}"
    parts: list[str] = []
    y = _source(arch, parts)
    scale, colours = _scale(arch), _colours()
    for i, (stage, side) in enumerate(zip(arch.stages, arch.sides, strict=True)):
        if i:
            y = _halving(parts, y, side)
        y = _stage(parts, y, i, stage, side, arch, scale, colours)
    y = _head(parts, y, arch)
    y = _legend(parts, y, arch)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="arch" viewBox="0 0 {WIDTH} {y:.0f}" '
        f'width="{2 * WIDTH}" height="{2 * y:.0f}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(describe(arch))}</desc>"
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def describe(arch: Architecture) -> str:
    """The same in words: a sentence a stage."""
    sentences = [
        f"Image of {arch.image_size} pixels, {arch.depth} block applications in all; "
        "weights, where a loop repeats a block, are used again."
    ]
    for i, (stage, side) in enumerate(zip(arch.stages, arch.sides, strict=True)):
        sentences.append(
            f"Stage {i + 1}: {side} × {side} tokens, {stage.dim} channels, "
            f"{_plural(stage.blocks, 'block')} × {_plural(stage.recursions, 'loop')}"
            + (f", order {stage.order}, {SHARED[stage.share]}" if stage.recursions > 1 else "")
            + f", attention in {', '.join(_slices(g) for g in stage.groups)}."
        )
    return " ".join(sentences)


def cells(
    stage: Stage, tokens: int, arch: Architecture, colours: Iterator[str]
) -> list[list[Cell]]:
    """The grid of a stage: a row for each loop, a column for each block.

    Every unit of weights takes one colour from ``colours``, in order of first use.
    """
    schedule: list[Application] = list(stage.schedule(tokens, arch.permute))
    if stage.order == "adjacent":
        rows = [schedule[loop :: stage.recursions] for loop in range(stage.recursions)]
    else:
        rows = [
            schedule[loop * stage.blocks : (loop + 1) * stage.blocks]
            for loop in range(stage.recursions)
        ]
    attention: dict[int, str] = {}
    mlp: dict[int, str] = {}
    for step in (step for row in rows for step in row):
        fresh = step.attention not in attention
        if fresh:
            attention[step.attention] = next(colours)
        if step.mlp not in mlp:  # both new: one block, one colour
            mlp[step.mlp] = attention[step.attention] if fresh else next(colours)
    return [[Cell(attention[s.attention], mlp[s.mlp], s.groups) for s in row] for row in rows]


def _colours() -> Iterator[str]:
    """Colours without end, neighbours far apart in hue and every third in lightness."""
    i = 0
    while True:
        hue, light = (212 + i * GOLDEN_DEGREES) % 360, (50, 42, 60)[i // 8 % 3]
        yield f"hsl({hue:.1f} 58% {light}%)"
        i += 1


def _scale(arch: Architecture) -> float:
    """Pixels per channel, so that the widest grid fits; one for all stages."""
    room = WIDTH - GUTTER - 14
    return min((room / min(stage.blocks, COLUMNS) - 26) / 2 / stage.dim for stage in arch.stages)


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("s" if number != 1 else "")


def _slices(groups: int) -> str:
    return "one piece" if groups == 1 else f"{groups:,} slices"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    extra = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(text)}</text>'


def _rect(x: float, y: float, w: float, h: float, fill: str, extra: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"{extra}/>'


def _source(arch: Architecture, parts: list[str]) -> float:
    side = arch.sides[0]
    parts.append('<rect x="6" y="4" width="20" height="20" rx="2" class="f"/>')
    parts.append('<path d="M6 20l6-7 4 4 4-6 6 8" class="f"/>')
    parts.append(_text(34, 12, f"image {arch.image_size} × {arch.image_size}", "h"))
    parts.append(
        _text(34, 24, f"three convolutions, stride {arch.stem_stride}: {side} × {side} tokens", "s")
    )
    return 32


def _halving(parts: list[str], y: float, side: int) -> float:
    parts.append(f'<path d="M6 {y + 3:.1f}h20l-5 10h-10z" class="n"/>')
    parts.append(_text(34, y + 12, f"convolution, stride 2: {side} × {side} tokens", "s"))
    return y + 20


def _stage(
    parts: list[str],
    y: float,
    index: int,
    stage: Stage,
    side: int,
    arch: Architecture,
    scale: float,
    colours: Iterator[str],
) -> float:
    loops = stage.recursions
    parts.append(
        _text(0, y + 12, f"Stage {index + 1}", "h")
        + _text(
            GUTTER,
            y + 12,
            f"{_plural(stage.blocks, 'block')} × {_plural(loops, 'loop')} = depth {stage.depth:,}, "
            f"{stage.dim:,} wide, {_plural(stage.heads, 'head')}",
        )
    )
    if loops > 1:
        parts.append(_text(0, y + 24, SHARED[stage.share], "s"))
        y += 12
    y += 20
    grid = cells(stage, side * side, arch, colours)
    shuffled = _shuffled(stage, side, arch)
    columns, rows = min(stage.blocks, COLUMNS), min(loops, ROWS)
    pitch = (WIDTH - GUTTER - 14) / columns
    width = max(3.0, stage.dim * scale)
    tile = max(13.0, min(34.0, side * 1.25))
    row_height = max(tile, (3 if any(shuffled) else 2) * LINE) + 6
    recursive = loops > 1 and stage.share != "none"
    around = recursive and stage.order == "cyclic" and stage.blocks > 1
    top = y + (26 if around else 16)
    for b in range(columns):
        x = GUTTER + b * pitch
        name = _name(b)
        parts.append(_text(x + width + 1.5, top - 4, name, "h", "middle"))
        for loop in range(rows):
            _cell(parts, grid[loop][b], x, top + loop * row_height, width, tile, stage)
            if b + 1 < columns:
                at = x + pitch - 7
                cy = top + loop * row_height + tile / 2
                if around or loop == rows - 1 or loops == 1:
                    parts.append(_arrow(at, cy))
        if recursive and not around:
            end = x + 2 * width + (9 if stage.nll_hidden else 6)
            _loop(parts, end, top, (rows - 1) * row_height + tile, grid[0][b].attention, loops)
    for loop in range(rows):
        cy = top + loop * row_height
        parts.append(_text(0, cy + 9, f"loop {loop + 1:,}" if loops > 1 else "once", "s"))
        parts.append(_text(0, cy + 20, _slices(stage.groups[loop])))
        if shuffled[loop]:
            parts.append(_text(0, cy + 30, "shuffled", "s"))
    height = rows * row_height
    if around:
        _loop_around(parts, top - 17, height + 11, columns * pitch, loops)
    y = top + height
    if stage.blocks > columns or loops > rows:
        parts.append(
            _text(
                GUTTER,
                y + 9,
                f"and so on: {_plural(stage.blocks, 'block')}, {_plural(loops, 'loop')} in all",
                "s",
            )
        )
        y += 13
    return y + 4


def _shuffled(stage: Stage, side: int, arch: Architecture) -> list[bool]:
    """Which loops permute their tokens before they are sliced."""
    schedule = stage.schedule(side * side, arch.permute)
    step = 1 if stage.order == "adjacent" else stage.blocks
    return [schedule[loop * step].permuted for loop in range(stage.recursions)]


def _name(block: int) -> str:
    return chr(ord("A") + block)


def _cell(
    parts: list[str],
    cell: Cell,
    x: float,
    y: float,
    width: float,
    height: float,
    stage: Stage,
) -> None:
    pieces = min(cell.groups, PIECES)
    gap = min(1.6, height / pieces / 3) if pieces > 1 else 0.0
    each = (height - gap * (pieces - 1)) / pieces
    d = "".join(
        f"M{x:.1f} {y + i * (each + gap):.2f}h{width:.1f}v{each:.2f}h-{width:.1f}z"
        for i in range(pieces)
    )
    parts.append(f'<path class="a" data-slices="{cell.groups}" d="{d}" fill="{cell.attention}"/>')
    extra = f' rx="{min(4.0, width / 3):.1f}" class="m"'
    parts.append(_rect(x + width + 3, y, width, height, cell.mlp, extra))
    if stage.nll_hidden:
        parts.append(
            f'<rect x="{x + 2 * width + 6:.1f}" y="{y:.1f}" width="2.5" height="{height:.1f}" '
            'class="n"/>'
        )


def _arrow(x: float, y: float) -> str:
    return f'<path d="M{x - 2:.1f} {y - 4:.1f}l4 4-4 4" class="f"/>'


def _loop(parts: list[str], x: float, top: float, height: float, colour: str, loops: int) -> None:
    """An arrow from the last loop of a block back to its first, at its right."""
    low, high = top + height - 5, top + 5
    parts.append(
        f'<path class="l loop" stroke="{colour}" d="M{x:.1f} {low:.1f}c9 0 9 -{low - high:.1f} '
        f'0.5 -{low - high:.1f}m4 -3.5l-4.5 3.5 4.5 3.5"/>'
    )
    parts.append(_text(x + 1, top - 4, f"×{loops:,}", "s"))


def _loop_around(parts: list[str], y: float, height: float, width: float, loops: int) -> None:
    """An arrow around the whole stage: every block once, then all of them again."""
    left, right = GUTTER + 1.0, GUTTER + width + 4
    parts.append(
        f'<path class="l loop" stroke="currentColor" d="M{right - 6:.1f} {y + height:.1f}h4'
        f"q5 0 5 -5V{y + 5:.1f}q0 -5 -5 -5H{left + 5:.1f}q-5 0 -5 5v5"
        'm-3.5 -4.5l3.5 4.5 3.5 -4.5"/>'
    )
    parts.append(_text((left + right) / 2, y - 3, f"all blocks ×{loops:,}", "s", "middle"))


def _head(parts: list[str], y: float, arch: Architecture) -> float:
    what = f"average, linear layer: {arch.num_classes:,} classes"
    if not arch.num_classes:
        what = "average: features, no classes"
    parts.append(f'<path d="M6 {y + 3:.1f}h20l-10 10z" class="n"/>')
    parts.append(_text(34, y + 12, what))
    return y + 22


def _legend(parts: list[str], y: float, arch: Architecture) -> float:
    colour = "hsl(212.0 58% 50%)"
    parts.append(f'<path d="M0 {y + 2:.1f}H{WIDTH}" class="f" stroke-width=".5"/>')
    y += 8
    d = "".join(f"M2 {y + i * 3.5:.1f}h11v2.4h-11z" for i in range(4))
    parts.append(f'<path d="{d}" fill="{colour}"/>')
    parts.append(_text(18, y + 10, "attention; cuts are its slices", "s"))
    parts.append(_rect(180, y, 11, 13, colour, ' rx="3"'))
    parts.append(_text(196, y + 10, "MLP; same colour: same weights", "s"))
    y += 17
    if any(stage.recursions > 1 and stage.share != "none" for stage in arch.stages):
        parts.append(
            f'<path class="l" stroke="{colour}" d="M4 {y + 11:.1f}c9 0 9 -9 .5 -9m4 -3l-4.5 3 '
            '4.5 3"/>'
        )
        parts.append(_text(18, y + 10, "the same block again", "s"))
    if any(stage.nll_hidden for stage in arch.stages):
        parts.append(f'<rect x="184" y="{y:.1f}" width="2.5" height="13" class="n"/>')
        parts.append(_text(196, y + 10, "projection; never shared", "s"))
    return y + 20
