"""Files that people write: read strictly, with line numbers, and written whole or not at all."""

from sret_nas.files.reading import MAX_BYTES, Lines, parse_json, parse_yaml, read, read_text
from sret_nas.files.records import Record, find, load, nearest
from sret_nas.files.writing import safe_name, whole, write

__all__ = [
    "MAX_BYTES",
    "Lines",
    "Record",
    "find",
    "load",
    "nearest",
    "parse_json",
    "parse_yaml",
    "read",
    "read_text",
    "safe_name",
    "whole",
    "write",
]
