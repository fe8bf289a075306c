"""An architecture as an SVG picture, for somebody who has never seen one.

A stage is a row of blocks, each in a frame of its own: a frame is a set of weights,
and what shares its weights has the same colour. In the frame stand the loops over the
block, one below the other; an arrow that returns goes around what is repeated, the
block (A A B B) or all blocks of the stage (A B A B). A sliced attention is cut into as
many pieces; twice the channels are twice the width.

No dependencies. Inside a page the text takes the colour of its surroundings; a file
of its own has its own ground, light or dark as the viewer prefers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from sret_nas.arch import Application, Architecture, Stage

WIDTH = 360
MARGIN = 14
"""Pixels around a picture that is a file of its own."""
GUTTER = 54
"""Pixels left of the blocks, for what every loop does."""
LINE = 11
FRAME, LANE, GAP = 5, 13, 12
"""Pixels: inside a frame, for its loop arrow, between frames."""
WIDEST = 96
"""Pixels of the widest block: few blocks leave room rather than grow."""
MLP, PROJECTION = 9.0, 2.5
"""Heights in pixels."""
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
BRIEFLY = {
    "all": "same weights in every loop",
    "attention": "loops share the attention alone",
    "mlp": "loops share the MLP alone",
    "none": "every loop has its own weights",
}
STYLE = (
    ".arch{font:10px system-ui,sans-serif;color:#1c2330}"
    "@media(prefers-color-scheme:dark){.arch{color:#e4e8ef}}"
    ".arch text{fill:currentColor}.arch .s{opacity:.72}.arch .h{font-weight:600;font-size:11px}"
    ".arch .l{fill:none;stroke-width:2}.arch .f{fill:none;stroke:currentColor;opacity:.5}"
    ".arch .n{fill:currentColor;opacity:.3}.arch .w{fill-opacity:.15}"
    ".arch .o{fill:none;stroke:currentColor;stroke-dasharray:3 3;opacity:.35}"
)
PAPER = ".arch .p{fill:#fff}@media(prefers-color-scheme:dark){.arch .p{fill:#171b22}}"


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


def draw(arch: Architecture, title: str = "", paper: bool = True) -> str:
    """The picture as the text of an SVG file.

    Args:
        arch: The architecture.
        title: What it is called; default its id.
        paper: Whether it is a file of its own, with its own ground; else it is part
            of a page.
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
    width, height, body, style = WIDTH, y, "".join(parts), STYLE
    if paper:
        width, height, style = width + 2 * MARGIN, height + 2 * MARGIN, style + PAPER
        body = (
            f'<rect width="{width}" height="{height:.0f}" x="0" y="0" class="p"/>'
            f'<g transform="translate({MARGIN} {MARGIN})">{body}</g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="arch" viewBox="0 0 {width} {height:.0f}" '
        f'width="{1.5 * width:.0f}" height="{1.5 * height:.0f}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(describe(arch))}</desc>"
        f"<style>{style}</style>{body}</svg>\n"
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
    """Pixels per channel, so that the widest row fits; one for all stages."""
    room = WIDTH - GUTTER
    beside = 2 * FRAME + LANE + GAP
    fits = min((room / min(s.blocks, COLUMNS) - beside) / s.dim for s in arch.stages)
    return min(fits, WIDEST / max(s.dim for s in arch.stages))


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
    parts.append('<rect x="6" y="2" width="20" height="20" rx="2" class="f"/>')
    parts.append('<path d="M6 18l6-7 4 4 4-6 6 8" class="f"/>')
    parts.append(_text(GUTTER, 10, f"image {arch.image_size} × {arch.image_size}", "h"))
    words = f"three convolutions, stride {arch.stem_stride}: {side} × {side} tokens"
    parts.append(_text(GUTTER, 22, words, "s"))
    return 34


def _halving(parts: list[str], y: float, side: int) -> float:
    parts.append(f'<path d="M6 {y + 3:.1f}h20l-5 10h-10z" class="n"/>')
    parts.append(_text(GUTTER, y + 12, f"convolution, stride 2: {side} × {side} tokens", "s"))
    return y + 26


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
    parts.append(_text(0, y + 10, f"Stage {index + 1}", "h"))
    words = f"{stage.dim:,} channels, {_plural(stage.heads, 'head')}; depth {stage.depth:,}"
    if loops > 1 or stage.blocks > 1:
        words += f" = {_plural(stage.blocks, 'block')} × {_plural(loops, 'loop')}"
    parts.append(_text(GUTTER, y + 10, words))
    if loops > 1:
        parts.append(_text(GUTTER, y + 22, BRIEFLY[stage.share], "s"))
        y += 12
    y += 16
    grid = cells(stage, side * side, arch, colours)
    shuffled = _shuffled(stage, side, arch)
    columns, rows = min(stage.blocks, COLUMNS), min(loops, ROWS)
    width = max(3.0, stage.dim * scale)
    tile = max(14.0, min(34.0, side * 1.25))
    cell = tile + 2 + MLP + (2 + PROJECTION if stage.nll_hidden else 0)
    pitch_y = max(cell, (3 if any(shuffled) else 2) * LINE) + 8
    recursive = loops > 1 and stage.share != "none"
    around = recursive and stage.order == "cyclic" and stage.blocks > 1
    top, height = y + 18, (rows - 1) * pitch_y + cell
    frame = 2 * FRAME + width + LANE
    for b in range(columns):
        x = GUTTER + b * (frame + GAP)
        _frame(parts, x, y, frame, height + 18 + FRAME, stage, grid[0][b])
        parts.append(_text(x + FRAME, y + 12, _name(b), "h"))
        for loop in range(rows):
            _cell(parts, grid[loop][b], x + FRAME, top + loop * pitch_y, width, tile, stage)
        if recursive and not around:
            colour = grid[0][b].mlp if stage.share == "mlp" else grid[0][b].attention
            _loop(parts, x + FRAME + width + 3, top, height, colour)
            parts.append(_text(x + frame - 3, y + 12, f"×{loops:,}", "", "end"))
        if b + 1 < columns:
            where: list[float] = list(range(rows)) if around else [(rows - 1) / 2]
            middle = top + tile / 2
            parts += [_arrow(x + frame + GAP / 2, middle + at * pitch_y) for at in where]
    for loop in range(rows):
        lines = [f"loop {loop + 1:,}"] * (loops > 1) + [_slices(stage.groups[loop])]
        lines += ["shuffled"] * shuffled[loop]
        for line, words in enumerate(lines):
            kind = "" if "slice" in words or "piece" in words else "s"
            parts.append(_text(0, top + loop * pitch_y + 9 + line * LINE, words, kind))
    y = top + height + FRAME
    if around:
        _loop_around(parts, y, columns * (frame + GAP) - GAP, loops)
        y += 18
    if stage.blocks > columns or loops > rows:
        words = f"and so on: {_plural(stage.blocks, 'block')}, {_plural(loops, 'loop')} in all"
        parts.append(_text(GUTTER, y + 12, words, "s"))
        y += 14
    return y + 8


def _frame(
    parts: list[str], x: float, y: float, width: float, height: float, stage: Stage, cell: Cell
) -> None:
    """What holds one set of weights; dashed where its loops share none."""
    if stage.recursions > 1 and stage.share == "none":
        parts.append(_rect(x, y, width, height, "none", ' rx="6" class="o"'))
        return
    colour = cell.mlp if stage.share == "mlp" else cell.attention
    parts.append(_rect(x, y, width, height, colour, ' rx="6" class="w"'))


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
    """One application: the attention in its slices, the MLP below, then the projection."""
    pieces = min(cell.groups, PIECES)
    gap = min(2.0, height / pieces / 2.6) if pieces > 1 else 0.0
    each = (height - gap * (pieces - 1)) / pieces
    d = "".join(
        f"M{x:.1f} {y + i * (each + gap):.2f}h{width:.1f}v{each:.2f}h-{width:.1f}z"
        for i in range(pieces)
    )
    parts.append(f'<path class="a" data-slices="{cell.groups}" d="{d}" fill="{cell.attention}"/>')
    below = y + height + 2
    extra = f' rx="{min(4.0, width / 3):.1f}" class="m"'
    parts.append(_rect(x, below, width, MLP, cell.mlp, extra))
    if stage.nll_hidden:
        parts.append(_rect(x, below + MLP + 2, width, PROJECTION, "currentColor", ' class="n"'))


def _arrow(x: float, y: float) -> str:
    return f'<path d="M{x - 2:.1f} {y - 4:.1f}l4 4-4 4" class="f"/>'


def _loop(parts: list[str], x: float, top: float, height: float, colour: str) -> None:
    """An arrow from the end of a block's last loop back to the start of its first."""
    rise = height - 11
    parts.append(
        f'<path class="l loop" stroke="{colour}" d="M{x:.1f} {top + height - 5:.1f}'
        f'c12 -2 12 -{rise - 2:.1f} 1 -{rise:.1f}m5.5 -4l-5.5 4 5 4.5"/>'
    )


def _loop_around(parts: list[str], y: float, width: float, loops: int) -> None:
    """An arrow below the whole stage: every block once, then all of them again."""
    left, right = GUTTER + 10.0, GUTTER + width - 10.0
    parts.append(
        f'<path class="l loop" stroke="currentColor" d="M{right:.1f} {y + 2:.1f}v8q0 6 -6 6'
        f'H{left + 6:.1f}q-6 0 -6 -6v-7m-4.5 5l4.5 -5 4.5 5"/>'
    )
    parts.append(_text((left + right) / 2, y + 12, f"all blocks ×{loops:,}", "", "middle"))


def _head(parts: list[str], y: float, arch: Architecture) -> float:
    what = f"average, linear layer: {arch.num_classes:,} classes"
    if not arch.num_classes:
        what = "average: features, no classes"
    parts.append(f'<path d="M6 {y + 3:.1f}h20l-10 10z" class="n"/>')
    parts.append(_text(GUTTER, y + 12, what, "s"))
    return y + 22


def _legend(parts: list[str], y: float, arch: Architecture) -> float:
    """What the shapes mean, of those that are there."""
    colour = "hsl(212.0 58% 50%)"
    sides = zip(arch.stages, arch.sides, strict=True)
    shuffled = any(any(_shuffled(stage, side, arch)) for stage, side in sides)
    recursive = any(stage.recursions > 1 and stage.share != "none" for stage in arch.stages)
    parts.append(f'<path d="M0 {y + 2:.1f}H{WIDTH}" class="f" stroke-width=".5"/>')
    y += 12
    tiles = "".join(f"M6 {y + i * 3.6:.1f}h20v2.4h-20z" for i in range(3))
    parts.append(f'<path d="{tiles}" fill="{colour}"/>')
    y = _entry(parts, y, "attention in slices: a token sees those of its slice")
    if shuffled:
        y = _entry(parts, y - 4, "(shuffled first, so that all tokens meet)")
    parts.append(_rect(6, y, 20, MLP, colour, ' rx="4"'))
    y = _entry(parts, y, "MLP. One colour is one set of weights")
    if recursive:
        parts.append(
            f'<path class="l" stroke="{colour}" d="M10 {y + 9:.1f}c12 -1 12 -8 1 -8m4.5 -3l-4.5 3 '
            '4 4"/>'
        )
        y = _entry(parts, y, "a loop: once more through the same weights")
    if any(stage.nll_hidden for stage in arch.stages):
        parts.append(_rect(6, y + 3, 20, PROJECTION, "currentColor", ' class="n"'))
        y = _entry(parts, y, "projection, with weights of its own after every loop")
    return y + 2


def _entry(parts: list[str], y: float, words: str) -> float:
    parts.append(_text(GUTTER - 20, y + 8, words, "s"))
    return y + 16
