"""The database: restarted, slow, cut off, behind Optuna's proxy; and its password."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MakeFarm = Callable[..., Any]
Cli = Callable[..., Any]


class Wire:
    """A connection to a server that can be slow, or dead without a word.

    Args:
        port: Of the server, on loopback.
        delay_s: Added in each direction.
    """

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self.target = port
        self.delay_s = delay_s
        self.loop = asyncio.new_event_loop()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.server = asyncio.run_coroutine_threadsafe(serving, self.loop).result()
        self.port = self.server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_s)
                await self.flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self) -> None:
        """Nothing comes through any more, and nobody is told."""
        self.loop.call_soon_threadsafe(self.flowing.clear)

    def mend(self) -> None:
        self.loop.call_soon_threadsafe(self.flowing.set)

    def close(self) -> None:
        async def end() -> None:
            self.server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def wire(postgres: Any) -> Iterator[Callable[..., Wire]]:
    wires: list[Wire] = []

    def make(port: int = postgres.port, **how: Any) -> Wire:
        wires.append(Wire(port, **how))
        return wires[-1]

    yield make
    for one in wires:
        one.close()


def test_a_restart_in_the_middle(make_farm: MakeFarm, postgres: Any, until: Any) -> None:
    """Once as a crash, once in order; the workers wait and go on."""
    farm = make_farm(trials=24)
    farm.start(4)
    for how, after in ((signal.SIGQUIT, 4), (signal.SIGINT, 12)):
        until(lambda after=after: farm.finished() >= after)
        postgres.stop(how)
        begun = sum(farm.trainings("begin").values())
        until(lambda: "does not answer" in "".join(w.stderr.read_text() for w in farm.workers))
        assert all(worker.alive for worker in farm.workers)
        assert sum(farm.trainings("begin").values()) - begun <= 4
        postgres.start()
    outcome = farm.end()
    assert not farm.trained_again()
    assert outcome.counts()["complete"] + outcome.counts()["pruned"] > 0


def test_a_slow_database(make_farm: MakeFarm, postgres: Any, url: str, wire: Any) -> None:
    farm = make_farm(trials=12)
    slow = wire(delay_s=0.002)
    farm.start(4, url=url.replace(str(postgres.port), str(slow.port)))
    farm.end()
    assert not farm.trained_again()


def test_cut_off_the_network(
    make_farm: MakeFarm, postgres: Any, url: str, wire: Any, until: Any
) -> None:
    """Its candidate is tried by another; it comes back, and nothing is counted twice."""
    farm = make_farm(trials=16, epoch_s=0.1, heartbeat_s=1.5)
    thread = wire()
    (cut,) = farm.start(url=url.replace(str(postgres.port), str(thread.port)), machine="there")
    until(lambda: farm.trainings("begin"))
    thread.cut()
    farm.start(2, machine="here")
    until(lambda: any(t.user_attrs.get("interrupted") == "lost" for t in farm.study.trials))
    thread.mend()
    farm.end(killed=1)
    assert cut.code == 0


PROXY = """
import sys, optuna
from optuna.storages import get_storage, run_grpc_proxy_server
optuna.logging.set_verbosity(optuna.logging.ERROR)
run_grpc_proxy_server(get_storage(sys.stdin.readline().strip()), host="127.0.0.1", port=PORT)
"""


class Proxy:
    """Optuna's gRPC proxy, in a process of its own."""

    def __init__(self, url: str, port: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROXY.replace("PORT", str(port))],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdin
        self.process.stdin.write(url.replace("postgresql:", "postgresql+psycopg:") + "\n")
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def test_behind_the_grpc_proxy_that_is_killed(
    make_farm: MakeFarm, url: str, free_port: int, until: Any
) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    farm = make_farm(trials=16)
    proxy = Proxy(url, free_port)
    try:
        farm.start(4, url=f"grpc://127.0.0.1:{free_port}")
        until(lambda: farm.finished() >= 6)
        proxy.kill()
        proxy = Proxy(url, free_port)
        farm.end()
    finally:
        proxy.kill()
    assert not farm.trained_again()


@pytest.mark.parametrize("broken", ["password", "database", "port"])
def test_what_does_not_let_us_in_is_one_line(
    broken: str, url: str, cli: Cli, free_port: int
) -> None:
    wrong = {
        "password": url.replace("hidden-word", "hidden-wordy"),
        "database": url + "_not_there",
        "port": url.rpartition(":")[0] + f":{free_port}/nas",
    }[broken]
    for command in (["runs"], ["worker", "--study", "x"], ["pareto", "--study", "x"]):
        result = cli(*command, "--storage", wrong)
        assert result.code == 1, result.err
        assert result.err.count("error: ") == 1
        assert "hidden-word" not in result.err
        assert "postgresql://sret:***@127.0.0.1" in result.err
        assert "bug" not in result.err


def test_no_password_anywhere(
    url: str, cli: Cli, make_farm: MakeFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in what is said nor in what is written, by whatever way it was given."""
    make_farm(trials=2).start()[0].wait()
    monkeypatch.chdir(tmp_path)
    file = tmp_path.parent / "address.txt"
    file.write_text(url + "\n")
    said = ""
    for given in (url, f"@{file}"):
        for command in (
            ["runs"],
            ["runs", "--json"],
            ["pareto", "--study", "farm"],
            ["pareto", "--study", "farm", "--json"],
            ["report", "--study", "farm"],
            ["pareto", "--study", "nothing"],
            ["pareto", "--study", "nothing", "--debug"],
        ):
            result = cli(*command, "--storage", given)
            said += result.out + result.err
    monkeypatch.setenv("SRET_NAS_STORAGE", url)
    result = cli("pareto", "--study", "farm")
    assert result.code == 0
    said += result.out + result.err + cli("pareto", "--help").out
    assert "***" in said
    assert "hidden-word" not in said
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"hidden-word" not in path.read_bytes(), path
