"""What the dashboard's own pages look like here: WSGI middleware that adds a style to each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

STYLE = """<style>
.modebar-container{top:auto!important;bottom:30px!important}
.MuiCard-root:has([id^="user-defined-plot:"]){margin:0 0 16px 16px}
@media(max-width:700px){
main{min-width:0}
main .MuiGrid-grid-xs-3,main .MuiGrid-grid-xs-6,main .MuiGrid-grid-xs-9{
max-width:100%;flex-basis:100%;flex-grow:0}
main .MuiFormControl-root{max-width:100%}
.MuiCard-root:has(.js-plotly-plot){margin:0 0 16px 16px}
}
</style>"""
"""For optuna-dashboard 0.21: bars of buttons at the foot of a plot, where no title is; a
card around each plot of ours; one column on a phone."""


class Styled:
    """Adds ``STYLE`` to the pages behind it; whatever else passes as it is."""

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        began: list[tuple[str, list[tuple[str, str]]]] = []

        def begin(status: str, headers: list[tuple[str, str]], *exc: Any) -> Callable[..., Any]:
            if _is_page(status, headers):
                began.append((status, headers))
                return lambda _: None
            return start(status, headers, *exc)

        parts = self.app(environ, begin)
        if not began:
            return parts
        try:
            body = b"".join(parts).replace(b"</head>", STYLE.encode() + b"</head>", 1)
        finally:
            getattr(parts, "close", lambda: None)()
        ((status, headers),) = began
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]


def _is_page(status: str, headers: Iterable[tuple[str, str]]) -> bool:
    kinds = [value for name, value in headers if name.lower() == "content-type"]
    return status.startswith("200") and any(kind.startswith("text/html") for kind in kinds)
