"""Whom the dashboard obeys: WSGI middleware before optuna-dashboard, which asks nobody.

A page of another site may send requests from the user's browser (CSRF), and, by a name
that it lets point at this machine, even read the answers (DNS rebinding). So the ``Host``
of every request must be one of our own, and what writes must come from our own pages.
"""

from __future__ import annotations

import hashlib
import hmac
import http
import ipaddress
import json
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

READING = ("GET", "HEAD", "OPTIONS")
LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
HEADERS = [
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
]
"""No page of another site shows ours in a frame, or learns its address with the token."""


@dataclass(frozen=True)
class Bound:
    """Where a server listens.

    Attributes:
        asked: The host as it was asked for.
        address: The interface that it became, e.g. ``0.0.0.0`` for ``0``.
    """

    asked: str
    address: str

    @property
    def loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback

    @property
    def everywhere(self) -> bool:
        """Whether it listens on every interface."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_unspecified

    def owns(self, host: str) -> bool:
        """Whether a ``Host`` header, with or without a port, means this server.

        On every interface any numeric address does: only a name can be rebound.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        own = LOOPBACK | {self.asked.lower(), self.address.lower()}
        if not self.loopback:
            machine = socket.gethostname().lower()
            own |= {machine, f"{machine}.local"}
        return bool(name) and (name in own or (self.everywhere and _numeric(name)))


def _numeric(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Refuses what our own pages did not ask.

    Args:
        app: Behind it.
        bound: Where the server listens.
        token: What every request must show, as ``?token=`` once and by cookie from then on;
            ``None`` where this machine alone reaches it.
        writes: Whether anything may be changed.
    """

    def __init__(
        self, app: WSGIApplication, bound: Bound, token: str | None = None, writes: bool = True
    ) -> None:
        self.app, self.bound, self.token, self.writes = app, bound, token, writes

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request, or let it through."""
        refused = self._refused(environ)
        if refused:
            return refuse(start, 403, refused)
        return self.app(environ, self._starting(environ, start))

    def _refused(self, environ: WSGIEnvironment) -> str | None:
        host = environ.get("HTTP_HOST", "")
        if not self.bound.owns(host):
            return f"Host {host[:80]!r} is not this server; open the address that was printed"
        if self.token is not None and not any(self._is_token(t) for t in self._shown(environ)):
            return "the address is incomplete: open the printed one, with its token"
        if environ["REQUEST_METHOD"] in READING:
            return None
        if not self.writes:
            return "read-only, since others can reach it; sret-nas dashboard --allow-writes"
        return None if _same_origin(environ, host) else "not asked by a page of this server"

    @property
    def _cookie(self) -> str:
        # Cookies know no ports, and several dashboards may serve from one machine.
        return f"sret_nas_{hashlib.sha256((self.token or '').encode()).hexdigest()[:8]}"

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), (self.token or "").encode())

    def _shown(self, environ: WSGIEnvironment) -> list[str]:
        shown = parse_qs(environ.get("QUERY_STRING", "")).get("token", [])[:1]
        try:
            morsel = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self._cookie)
        except CookieError:
            morsel = None
        return shown + ([morsel.value] if morsel else [])

    def _starting(self, environ: WSGIEnvironment, start: StartResponse) -> StartResponse:
        more = list(HEADERS)
        if self.token is not None and "token=" in environ.get("QUERY_STRING", ""):
            more.append(
                ("Set-Cookie", f"{self._cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict")
            )

        def begin(status: str, headers: list[tuple[str, str]], *exc: Any) -> Any:
            return start(status, headers + more, *exc)

        return begin


def _same_origin(environ: Mapping[str, Any], host: str) -> bool:
    """Whether a page of this server sent a request; what says nothing of where from did not."""
    site = environ.get("HTTP_SEC_FETCH_SITE")
    origin = environ.get("HTTP_ORIGIN") or environ.get("HTTP_REFERER")
    if origin is None:
        return site == "same-origin"
    try:
        found = urlsplit(origin)
    except ValueError:
        return False
    own = found.scheme in ("http", "https") and found.netloc.lower() == host.lower()
    return own and site in (None, "same-origin")


class OneStudy:
    """Shows one study of a storage: the others are not there.

    Args:
        app: Behind it; optuna-dashboard.
        study_id: Of the study.
        owns_trial: Whether a trial, by its id, is of that study.
    """

    PATHS = re.compile(r"/+(?:api/studies|api/artifacts|artifacts|csv)/+(\d+)(?:/.*)?")
    TRIALS = re.compile(r"/+api/trials/+(\d+)(?:/.*)?")

    def __init__(
        self, app: WSGIApplication, study_id: int, owns_trial: Callable[[int], bool]
    ) -> None:
        self.app, self.study_id, self.owns_trial = app, study_id, owns_trial

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        """Answer a request, or let it through."""
        # As optuna-dashboard reads it: WSGI carries UTF-8 as if it were Latin-1.
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "ignore")
        reading = environ["REQUEST_METHOD"] in READING
        if re.fullmatch(r"/+api/studies/*", path):
            return self._list(environ, start) if reading else refuse(start, 403, ONE)
        study, trial = self.PATHS.fullmatch(path), self.TRIALS.fullmatch(path)
        if study and int(study[1]) != self.study_id:
            return refuse(start, 404, ONE)
        if trial and not self.owns_trial(int(trial[1])):
            return refuse(start, 404, ONE)
        if study and path.rstrip("/").endswith("/rename") and not reading:
            return refuse(start, 403, "the run knows its study by this name")
        return self.app(environ, start)

    def _list(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        began: list[tuple[str, list[tuple[str, str]]]] = []

        def begin(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], Any]:
            began.append((status, headers))
            return lambda _: None

        parts = self.app(environ, begin)
        try:
            body = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        ((status, headers),) = began
        if status.startswith("200") and body:
            found = json.loads(body)
            own = [s for s in found["study_summaries"] if s["study_id"] == self.study_id]
            body = json.dumps(found | {"study_summaries": own}).encode()
        kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start(status, [*kept, ("Content-Length", str(len(body)))])
        return [body]


ONE = "one study is shown; sret-nas dashboard --all-studies shows those beside it"


def refuse(start: StartResponse, code: int, reason: str) -> list[bytes]:
    """Answer with the reason, in the form that the dashboard's pages show."""
    body = json.dumps({"reason": reason}).encode()
    head = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *HEADERS]
    start(f"{code} {http.HTTPStatus(code).phrase}", head)
    return [body]
