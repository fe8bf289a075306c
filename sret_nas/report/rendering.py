"""From a template beside this file to a page that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from sret_nas.units import format_count, format_quantity


def render(template: str, content: Mapping[str, Any]) -> str:
    """Fill a template; text of others stays text, and a name that is missing is an error.

    Args:
        template: Name of the file.
        content: What it speaks of.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sret_nas.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quantity"] = lambda value, metric: format_quantity(metric, value)
    environment.filters["count"] = format_count
    return environment.get_template(template).render(content) + "\n"
