"""The file of a space with its sizes as comments; still a file of a space."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from sret_nas import files
from sret_nas.space.bundled import bundled
from sret_nas.space.space import SearchSpace
from sret_nas.units import format_count, format_quantity
from sret_nas.usercode import Allow


def annotated(source: str | Path, allow_code: Allow = False) -> str:
    """The text of a file, each line that chooses with the number of its choices.

    Args:
        source: Name of a bundled space, or a file.
        allow_code: Whether the module of a ``callable`` may run.

    Raises:
        ConfigError: no such space, or what the file says is impossible.
    """
    space = SearchSpace.load(source, allow_code)
    path = bundled().get(str(source), Path(source))
    text = files.read_text(path)
    _, lines = files.parse_yaml(text)  # JSON is YAML too
    chosen: dict[int, list[int]] = defaultdict(list)
    for dimension in space.coordinates:
        chosen[lines[dimension.path]].append(len(dimension.choices))
    shown = [f"# {line}" for line in summary(space)]
    for number, line in enumerate(text.splitlines(), start=1):
        counts = chosen.get(number)
        if counts:
            line += f"{';' if '#' in line else '  #'} {' × '.join(map(str, counts))} choices"
        shown.append(line)
    return "\n".join(shown) + "\n"


def summary(space: SearchSpace) -> list[str]:
    """The size of a space and the range of its costs, in sentences."""
    count = space.distinct
    architectures = f"{format_count(count.value)} architectures"
    if not count.exact:
        architectures = (
            f"about {architectures} (between {format_count(count.low)} "
            f"and {format_count(count.high)})"
        )
    ranges = ", ".join(
        f"{format_quantity(metric, e.low)} to {format_quantity(metric, e.high)}"
        for metric, e in space.extremes.items()
    )
    sampled = "" if all(e.exact for e in space.extremes.values()) else " (in a sample)"
    return [
        f"{space.name}: {format_count(space.size)} encodings in {len(space.coordinates)} "
        f"coordinates, {architectures}",
        f"{ranges}{sampled}",
    ]
