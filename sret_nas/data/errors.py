"""What can be wrong with data."""

from __future__ import annotations

from sret_nas.errors import SretNasError, UsageError


class DataError(UsageError):
    """Data that cannot be trained on, with the place and the reason."""


class DownloadError(SretNasError):
    """Data that is not here and cannot be fetched."""
