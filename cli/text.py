"""Text of others, safe for a terminal: names of files and studies may hold anything."""

from __future__ import annotations

import re

CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What steers a terminal or turns text around; file names and studies may hold it."""


def clean(text: str) -> str:
    r"""Text of others with its control characters spelt out.

    Example:
        >>> clean("run\x1b[31m")
        'run\\x1b[31m'
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
