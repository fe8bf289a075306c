"""The benchmark of a GPU, in its reduced form: what it runs, keeps and says of its goals."""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import sret_nas
from sret_nas import Architecture

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of ``benchmarks/`` by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize("name", ["sret_t", "sret_t_wo_slice"])
def test_the_plain_network_computes_what_the_published_code_does(
    name: str, script: Any, fill: ModuleType, golden_cases: dict[str, dict[str, Any]]
) -> None:
    case = golden_cases[name]
    model = script("published").Published(Architecture.load(name)).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == case["state_dict"]
    first: dict[int, str] = {}  # a repeated block takes the value of its first key
    for key, value in model.state_dict(keep_vars=True).items():
        known = first.setdefault(id(value), key)
        new = torch.from_numpy(fill.value(known, tuple(value.shape)))
        value.data.copy_(new)
    image = torch.from_numpy(fill.image(2, 3, 224))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with torch.no_grad():
            logits = model(image)
        torch.manual_seed(0)
        F.cross_entropy(model(image), torch.tensor([1, 2])).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    torch.testing.assert_close(logits, torch.from_numpy(case["logits"]), atol=1e-4, rtol=0)
    assert norm.item() == pytest.approx(case["grad_norm"], rel=1e-4)
    ours = sret_nas.create_model(name)
    ours.load_state_dict(sret_nas.convert_official_state_dict(model.state_dict()))


SECTIONS = ["training", "forward", "memory", "predictor", "search", "modes", "tests"]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_runs_in_its_reduced_form(
    name: str, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sret_nas.latency.measurement.TURN_S", 0.001)
    bench = script("gpu_bench").Bench("cpu", reduced=True)
    rows = list(script(f"gpu_{name}").rows(bench))
    assert rows
    assert [row["failed"] for row in rows if row.get("failed")] == []
    assert json.loads(json.dumps(rows)) == rows
    if name == "training":
        assert [row["what"] for row in rows] == ["ours", "ours, eager", "published", "timm"]
        assert all(row["kernels_per_step"] > 100 for row in rows)
    if name == "modes":
        assert all(row["difference"] is not None for row in rows)
    if name == "search":
        assert sum(rows[0]["counts"].values()) == 2
        assert rows[0]["front"] == rows[0]["confirmed"] > 0


def test_the_sections_are_those_that_are_tested(script: Any) -> None:
    assert list(script("gpu_bench").SECTIONS) == SECTIONS


def test_it_goes_on_with_what_has_not_ended_and_calls_no_goal_reached(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"

    def command(*arguments: object) -> str:
        words = ["gpu.py", "--device", "cpu", "--out", out, *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        script("gpu").main()
        return capsys.readouterr().out

    said = command("--sections", "modes", "--minutes", 2)
    document = json.loads(out.read_text())
    assert document["reduced"] and document["device"]["device"] == "cpu"
    assert document["sections"]["modes"]["ended"] == "done"
    assert {goal["verdict"] for goal in document["goals"]} == {"not measured"}
    assert said.count("not measured") == len(document["goals"]) >= 11
    rows = document["sections"]["modes"]["rows"]

    said = command("--sections", "modes", "memory", "--minutes", 0)
    assert "modes: has ended before" in said
    document = json.loads(out.read_text())
    assert document["sections"]["modes"]["rows"] == rows
    assert document["sections"]["memory"]["ended"] == "its 0 s were over"

    out.write_text(json.dumps(document | {"commit": "another"}))
    with pytest.raises(SystemExit, match="measured otherwise: commit was another"):
        command("--sections", "modes")


def test_processes_of_sections_can_use_a_gpu() -> None:
    """CUDA cannot be begun in a fork of a process that has asked for it."""
    code = (
        "import importlib, torch, gpu_process\n"
        "for name in gpu_process.PRELOADED: importlib.import_module(name)\n"
        "import os\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(torch.cuda._is_in_bad_fork())\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=BENCHMARKS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_section_that_hangs_fails_or_dies_keeps_what_it_found(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = script("gpu_process")
    bench = script("gpu_bench").Bench("cpu", reduced=True)
    (tmp_path / "gpu_hangs.py").write_text(
        "import subprocess, threading\n"
        "def rows(bench):\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        "    yield {'child': child.pid}\n"
        "    threading.Event().wait()\n"
    )
    (tmp_path / "gpu_fails.py").write_text(
        "def rows(bench):\n    yield {'a': 1}\n    raise ValueError('no\\nmore')\n"
    )
    (tmp_path / "gpu_dies.py").write_text(
        "import os\ndef rows(bench):\n    yield {'a': 1}\n    os.kill(os.getpid(), 11)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rows: list[Any] = []
    children = []

    def keep(row: Any) -> None:
        rows.append(row)
        if "child" in row:
            children.append(os.pidfd_open(row["child"]))

    assert process.run("fails", bench, 100, keep) == "ValueError: no"
    assert process.run("dies", bench, 100, keep) == "its process died (-11)"
    assert rows == [{"a": 1}, {"a": 1}]
    # It is given as long as it needs to find something, and then no more.
    waits = iter([True, False])
    monkeypatch.setattr(process.Connection, "poll", lambda *_: next(waits))
    assert process.run("hangs", bench, 100, keep) == "its 100 s were over"
    (child,) = children
    assert select.select([child], [], [], 60)[0] == [child]  # it has ended too
    os.close(child)


def row(name: str, **values: Any) -> dict[str, Any]:
    return {"what": name} | values


def judged(script: Any, section: str, rows: list[Any], **changes: Any) -> list[str]:
    sections = {section: {"rows": rows, "ended": "done"} | changes}
    goals = script("gpu_goals").judge(sections, reduced=False)
    assert {goal["verdict"] for goal in goals if goal["section"] != section} == {"not measured"}
    return [goal["verdict"] for goal in goals if goal["section"] == section]


def test_goals_are_judged_by_what_was_measured_whole(script: Any) -> None:
    goals = script("gpu_goals")

    def memory(error: float, kinds: Any = goals.KINDS) -> list[Any]:
        return [
            row(name, published=True, batch=batch, kind=kind, error=error)
            for name in sret_nas.zoo.PUBLISHED
            for batch in goals.MEMORY_BATCHES
            for kind in kinds
        ]

    trained = [
        row("ours", batch=256, images_per_s={"median": 39_000.0}),
        row("ours", batch=1024, failed="out of memory"),
    ]
    assert judged(script, "training", trained) == ["missed"]
    trained.append(row("ours", batch=512, images_per_s={"median": 40_001.0}))
    assert judged(script, "training", trained) == ["reached"]
    assert judged(script, "training", trained[1:2]) == ["not measured"]
    graph = {"mode": "graph", "dtype": "bf16"}
    timed = [row("sret_t", batch=128, median_ms=4.1, **graph), row("sret_t", batch=1, failed="x")]
    assert judged(script, "forward", timed) == ["missed", "not measured"]
    eager = row("sret_t", batch=1, median_ms=0.5, mode="eager", dtype="bf16")
    assert judged(script, "forward", [eager]) == ["not measured"] * 2
    assert judged(script, "memory", memory(-0.09)) == ["reached"]
    assert judged(script, "memory", memory(-0.11)) == ["missed"]
    assert judged(script, "memory", memory(0.0)[:-1]) == ["not measured"]
    held_out = {"mode": "graph", "held_out": 40, "within_10": {"predictor": 0.95}}
    assert judged(script, "predictor", [{"batch": 1} | held_out]) == ["reached", "not measured"]
    few = held_out | {"held_out": 39}
    assert judged(script, "predictor", [{"batch": 64} | few]) == ["not measured"] * 2
    whole = {"counts": {"complete": 20, "pruned": 4}, "front": 3, "confirmed": 3}
    assert judged(script, "search", [{"seconds": 119.0, "busy": 0.5} | whole]) == [
        "reached",
        "missed",
    ]
    for part in ({"confirmed": 2}, {"counts": {"complete": 23}}, {"failed": "its time was over"}):
        rows = [{"seconds": 1.0, "busy": 1.0} | whole | part]
        assert judged(script, "search", rows) == ["not measured"] * 2
    unknown = [{"seconds": 119.0, "busy": None} | whole]
    assert judged(script, "search", unknown) == ["reached", "not measured"]
    right, other = row("small", failed=None), row("small", failed="differs")
    assert judged(script, "modes", [right]) == ["reached"]
    assert judged(script, "modes", [right, other]) == ["missed"]
    assert judged(script, "modes", [right], ended="its 30 s were over") == ["not measured"]
    ran = row("all", passed=9, failed=0, seconds=181.0, exit=0)
    assert judged(script, "tests", [ran]) == ["reached", "missed"]
    for nothing in ({"passed": 0}, {"exit": -9}, {"exit": 2}):
        assert judged(script, "tests", [ran | nothing]) == ["not measured"] * 2


def event(kind: str, start: int, duration: int, typed: bool = True) -> Any:
    known = {"activity_type": lambda: kind} if typed else {}
    cuda = torch.autograd.DeviceType.CUDA
    return SimpleNamespace(
        name=lambda: kind,
        device_type=lambda: cuda,
        start_ns=lambda: start,
        duration_ns=lambda: duration,
        **known,
    )


def test_kernels_are_counted_and_time_that_they_cover_together(script: Any) -> None:
    kernels = script("gpu_kernels")
    events = [
        event("kernel", 200, 100),
        event("kernel", 100, 150),
        event("gpu_memcpy", 400, 100),
        event("gpu_user_annotation", 0, 1000),
        event("cuda_runtime", 0, 1000),
    ]
    found = kernels.account(events, "kernel")
    assert found.kernels == 2
    assert (found.busy_s, found.span_s) == pytest.approx((300e-9, 400e-9))
    assert found.share == pytest.approx(0.75)
    # torch before it told the kind
    names = ["void some_kernel", "Memcpy HtoD", "Memset (Device)", "Optimizer.step#AdamW.step"]
    old = [kernels.kind_of(event(name, 0, 1, typed=False)) for name in names]
    assert old == ["kernel", "gpu_memcpy", "gpu_memset", "other"]
    with pytest.raises(RuntimeError, match="saw nothing"):
        kernels.account(events[3:], "kernel")


def test_utilisation_is_the_mean_of_what_the_driver_says(script: Any) -> None:
    search = script("gpu_search")
    assert search.mean_share("100\n50\n[N/A]\n") == [0.75]
    assert search.mean_share("No devices were found\n") == []
