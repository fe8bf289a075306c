"""Whom the dashboard obeys: real requests to its WSGI application."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from sret_nas.report import guard
from sret_nas.report.dashboard import Dashboard
from sret_nas.report.guard import Bound
from sret_nas.study.retrying import with_all_trials

OWN = "127.0.0.1:8080"
NEW = {"study_name": "planted", "directions": ["minimize"]}
FOREIGN = [
    {"host": "evil.example:8080"},
    {"host": "evil.example:8080", "origin": "http://evil.example:8080"},
    {"host": "localhost.evil.example"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "10.1.2.3"},
    {"host": "evil.example#@127.0.0.1"},
    {"host": "[bad"},
    {"host": ""},
]
CROSS = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:3000"},
    {"origin": "http://localhost:8080"},
    {"origin": f"ftp://{OWN}"},
    {"origin": "http://[bad"},
    {"referer": "http://evil.example/127.0.0.1:8080"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site", "origin": f"http://{OWN}"},
    {},
]


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    app: Any, method: str, path: str, body: Any = None, host: str = OWN, **headers: str
) -> Answer:
    raw = b"" if body is None else json.dumps(body).encode()
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method, "PATH_INFO": path.encode().decode("latin-1"),
        "QUERY_STRING": query, "HTTP_HOST": host, "wsgi.input": io.BytesIO(raw),
        "CONTENT_LENGTH": str(len(raw)), "CONTENT_TYPE": "application/json",
    } | {f"HTTP_{name.upper()}": value for name, value in headers.items()}  # fmt: skip
    setup_testing_defaults(environ)
    began: list[Any] = []
    parts = app(environ, lambda *words: began.append(words))
    answer = b"".join(parts)
    getattr(parts, "close", lambda: None)()
    status, found = began[-1][:2]
    return Answer(int(status.split()[0]), dict(found), answer)


@pytest.fixture(scope="module")
def outcome(make_runs: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = make_runs(tmp_path_factory.mktemp("guarded")).outcome(3, stored=True)
    other = optuna.create_study(storage=made.study._storage, study_name="another's")
    other.add_trial(optuna.trial.create_trial(value=1.0))
    return made


def dashboard(outcome: Any, **options: Any) -> Iterator[Dashboard]:
    made = Dashboard(outcome, outcome.run.path / "artifacts", port=0, **options)
    yield made
    made.server.close()


@pytest.fixture(scope="module")
def own(outcome: Any) -> Iterator[Dashboard]:
    yield from dashboard(outcome)


@pytest.fixture(scope="module")
def wide(outcome: Any) -> Iterator[Dashboard]:
    yield from dashboard(outcome, host="0")


def names(outcome: Any) -> set[str]:
    return set(optuna.get_all_study_names(outcome.study._storage))


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_a_foreign_host_gets_nothing(
    own: Dashboard, outcome: Any, method: str, headers: dict[str, str]
) -> None:
    """However the request calls itself of the same origin: DNS rebinding."""
    for path in ("/", "/api/studies", f"/api/studies/{outcome.study._study_id}", "/api/meta"):
        answer = ask(own.app, method, path, NEW, **headers | {"sec_fetch_site": "same-origin"})
        assert answer.status == 403
        assert b"is not this server" in answer.body
    assert names(outcome) == {"run", "another's"}


@pytest.mark.parametrize("headers", CROSS)
def test_a_foreign_page_writes_nothing(
    outcome: Any, headers: dict[str, str], tmp_path: Path
) -> None:
    (shown,) = dashboard(outcome, all_studies=True)
    number = outcome.study._study_id
    for method, path in (
        ("POST", "/api/studies"),
        ("DELETE", f"/api/studies/{number}"),
        ("PUT", f"/api/studies/{number}/note"),
        ("POST", f"/api/studies/{number}/rename"),
        ("POST", "/api/trials/1/user-attrs"),
        ("PATCH", "/api/studies"),
    ):
        answer = ask(shown.app, method, path, NEW | {"body": "x", "version": 9}, **headers)
        assert answer.status == 403, path
        assert answer.json["reason"]
    assert names(outcome) == {"run", "another's"}


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": f"http://{OWN}"},
        {"origin": f"http://{OWN}", "sec_fetch_site": "same-origin"},
        {"referer": f"http://{OWN}/dashboard/studies/1"},
        {"sec_fetch_site": "same-origin"},
        {"host": "localhost:9000", "origin": "http://localhost:9000"},  # a forwarded port
        {"host": "[::1]:8080", "origin": "http://[::1]:8080"},
    ],
)
def test_our_own_page_reads_and_writes(
    own: Dashboard, outcome: Any, headers: dict[str, str]
) -> None:
    number = outcome.study._study_id
    host = {"host": headers["host"]} if "host" in headers else {}
    assert ask(own.app, "GET", f"/api/studies/{number}", **host).json["name"] == "run"
    page = ask(own.app, "GET", f"/dashboard/studies/{number}", **host)
    assert page.status == 200
    assert page.headers["X-Frame-Options"] == "SAMEORIGIN"
    note = {"body": "seen", "version": 1}
    stored = outcome.study._storage.get_study_system_attrs(number)
    note["version"] = stored.get("dashboard:note_ver", 0) + 1
    assert ask(own.app, "PUT", f"/api/studies/{number}/note", note, **headers).status == 204


def test_the_other_studies_of_a_storage_are_not_there(own: Dashboard, outcome: Any) -> None:
    same = {"sec_fetch_site": "same-origin"}
    number = outcome.study._study_id
    (other,) = {s._study_id for s in optuna.get_all_study_summaries(outcome.study._storage)} - {
        number
    }
    (foreign,) = with_all_trials(outcome.study._storage).get_all_trials(other)
    (listed,) = ask(own.app, "GET", "/api/studies").json["study_summaries"]
    assert listed["study_id"] == number
    wide_two = chr(ord("０") + other)  # a digit to Python, too
    for path in (
        f"/api/studies/{other}", f"//api/studies/{other}/", f"/csv/{other}",
        f"/api/studies/{wide_two}", f"/artifacts/{other}/00", f"/api/studies/{other}/plot/contour",
    ):  # fmt: skip
        assert ask(own.app, "GET", path).status == 404, path
    for method, path in (
        ("DELETE", f"/api/studies/{other}"),
        ("PUT", f"/api/studies/{other}/note"),
        ("POST", f"/api/trials/{foreign._trial_id}/user-attrs"),
    ):
        assert ask(own.app, method, path, {"user_attrs": {"a": 1}}, **same).status == 404
    assert ask(own.app, "POST", "/api/studies", NEW, **same).status == 403
    assert ask(own.app, "POST", f"/api/studies/{number}/rename", NEW, **same).status == 403
    assert names(outcome) == {"run", "another's"}
    for shown in dashboard(outcome, all_studies=True):
        assert len(ask(shown.app, "GET", "/api/studies").json["study_summaries"]) == 2
        found = ask(shown.app, "GET", f"/api/studies/{other}").json
        assert found["name"] == "another's" and len(found["trials"]) == 1


def test_beyond_loopback_a_token_opens_it(wide: Dashboard, outcome: Any) -> None:
    number = outcome.study._study_id
    path, query = f"/dashboard/studies/{number}", wide.url.partition("?")[2]
    assert query == f"token={wide.token}"
    assert len(wide.token or "") >= 32
    for shown in ("", "?token=", "?token=wrong", f"?token={(wide.token or '')[:-1]}", "?token=é"):
        for where in (path, "/api/studies", f"/api/studies/{number}", "/static/bundle.js"):
            assert ask(wide.app, "GET", where + shown).status == 403
    first = ask(wide.app, "GET", f"{path}?{query}")
    assert first.status == 200
    cookie, _, rest = first.headers["Set-Cookie"].partition(";")
    assert "HttpOnly" in rest
    assert "SameSite=Strict" in rest
    assert "Set-Cookie" not in ask(wide.app, "GET", path, cookie=cookie).headers
    assert ask(wide.app, "GET", f"/api/studies/{number}", cookie=cookie).json["name"] == "run"
    name = cookie.partition("=")[0]
    assert ask(wide.app, "GET", path, cookie=f"{name}=wrong").status == 403
    assert ask(wide.app, "GET", path, cookie='"=;;').status == 403


def test_beyond_loopback_it_is_read_only_unless_allowed(wide: Dashboard, outcome: Any) -> None:
    number = outcome.study._study_id
    body, head = {"body": "x", "version": 99}, {"origin": f"http://{OWN}"}
    path = f"/api/studies/{number}/note?token="
    refused = ask(wide.app, "PUT", path + str(wide.token), body, **head)
    assert refused.status == 403
    assert "--allow-writes" in refused.json["reason"]
    for other in dashboard(outcome, host="0.0.0.0", writes=True):
        assert ask(other.app, "PUT", path + str(other.token), body, **head).status != 403
        assert ask(other.app, "PUT", path + str(other.token), body).status == 403


def test_beyond_loopback_the_host_must_be_ours(
    wide: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard.socket, "gethostname", lambda: "Box")
    path = f"/api/studies?token={wide.token}"
    for host in ("box:8080", "box.local", "192.0.2.7:8080", "[2001:db8::1]", "localhost"):
        assert ask(wide.app, "GET", path, host=host).status == 200, host
    for host in ("evil.example", "box.evil.example", "192.0.2.7.evil.example"):
        assert ask(wide.app, "GET", path, host=host).status == 403, host


@pytest.mark.parametrize(
    ("asked", "address", "loopback", "everywhere"),
    [
        ("127.0.0.1", "127.0.0.1", True, False),
        ("localhost", "127.0.0.1", True, False),
        ("127.9", "127.0.0.9", True, False),
        ("::1", "::1", True, False),
        ("0", "0.0.0.0", False, True),
        ("", "0.0.0.0", False, True),
        ("::", "::", False, True),
        ("::0", "::", False, True),
        ("192.0.2.7", "192.0.2.7", False, False),
        ("fe80::1%eth0", "fe80::1%eth0", False, False),
    ],
)
def test_every_form_of_an_address(
    asked: str, address: str, loopback: bool, everywhere: bool
) -> None:
    bound = Bound(asked, address)
    assert (bound.loopback, bound.everywhere) == (loopback, everywhere)


@pytest.mark.parametrize("host", ["0", "0.0.0.0", ""])
def test_the_command_warns_of_every_open_address(
    outcome: Any, host: str, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dashboard, "serve", lambda _: None)
    words = ["dashboard", outcome.run.path, "--no-browser", "--port", 0, "--host", host]
    result = cli(*words)
    assert result.code == 0
    assert "warning: other machines reach it; whoever has the address can read the" in result.err
    assert "?token=" in result.out
    assert "can read and change the study" in cli(*words, "--allow-writes").err
    quiet = cli(*words[:-1], "127.0.0.1")
    assert "warning" not in quiet.err
    assert "token" not in quiet.out
