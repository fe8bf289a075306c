from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sret_nas import Architecture
from sret_nas.cost import cost
from sret_nas.errors import UsageError
from sret_nas.latency import Latency, breakdown, measure, preparation
from sret_nas.latency.breakdown import time_by_stage
from sret_nas.profile import Measurement, profile

Cli = Callable[..., Any]
SMALL = {
    "image_size": 32,
    "stem_stride": 4,
    "num_classes": 7,
    "stages": [
        {"heads": 2, "head_dim": 4, "blocks": 2, "recursions": 2, "groups": [4, 2]},
        {"heads": 4, "head_dim": 4, "recursions": 3, "groups": [1, 4, 2]},
    ],
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    Architecture.load(SMALL).save(path)
    return path


def test_json_has_what_the_contract_promises(
    cli: Cli, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakdown, "WITHIN", 1e9)  # a busy machine is no error here
    result = cli("profile", small, "--json", "--counters", "--batch", "2,1")
    assert "device  cpu, torch sees no GPU" in result.err
    document = result.json
    expected = cost(Architecture.load(small))
    assert document["params"] == expected.params
    assert document["macs"] == expected.macs
    assert document["activations"] == expected.activations
    assert document["peak_bytes"] == expected.peak_bytes
    assert document["depth"] == 7
    assert sum(row["macs"] for row in document["by_stage"]) == expected.macs
    assert sum(row["time_share"] for row in document["by_stage"]) == pytest.approx(1)
    for name in ("torch", "fvcore", "ptflops-pytorch", "ptflops-aten"):
        counter = document["counters"][name]
        assert counter.get("macs") or counter.get("flops")
        assert {"unit", "convention", "note"} <= set(counter)
    latency = document["latency"]
    assert {"median_ms", "p95_ms", "runs", "batch", "dtype", "device", "mode"} <= set(latency)
    assert [one["batch"] for one in document["latencies"]] == [2, 1]
    assert latency["median_ms"] > 0
    assert latency["roofline"]["least_ms"] > 0
    assert Architecture.load(document["architecture"]) == Architecture.load(small)


def test_nothing_measured_is_null_and_needs_no_torch(small: Path) -> None:
    program = (
        "import sys; from sret_nas.cli.main import run; "
        f"code = run(['profile', {str(small)!r}, '--no-latency', '--json']); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(done.stdout)["latency"] is None


def test_several_side_by_side_with_a_timm_model(cli: Cli, small: Path) -> None:
    result = cli("profile", small, "sret_t", "test_vit", "--no-latency", "--format", "csv")
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(result.out))}
    assert rows["sret_t"]["macs"] == "1112444672"
    assert rows["sret_t"]["params"] == "4755979"
    assert rows["sret_t"]["depth"] == "20"
    assert int(rows["test_vit"]["macs"]) > 0
    assert rows["test_vit"]["depth"] == ""
    documents = cli("profile", "sret_t", "test_vit", "--no-latency", "--json").json
    assert [document["name"] for document in documents] == ["sret_t", "test_vit"]
    assert documents[1]["by_stage"] is None


@pytest.mark.parametrize("by", ["stage", "layer"])
def test_breakdowns_add_up(by: str, cli: Cli) -> None:
    result = cli("profile", "sret_t", "--no-latency", "--by", by, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert sum(int(row["macs"]) for row in rows) == 1_112_444_672
    assert sum(int(row["params"]) for row in rows) == 4_755_979
    assert sum(float(row["macs_share"]) for row in rows) == pytest.approx(1)
    table = cli("profile", "sret_t", "--no-latency", "--by", by).out
    assert "├ stage 1" in table
    assert "└ head" in table


def test_the_golden_table(cli: Cli) -> None:
    golden = Path(__file__).parent / "golden" / "profile.txt"
    result = cli("profile", "sret_t", "sret_t_wo_slice", "sret_s", "--no-latency")
    assert result.out == golden.read_text()


def test_counters_say_what_they_miss(cli: Cli, small: Path) -> None:
    out = cli("profile", small, "--no-latency", "--counters").out
    assert "equals the analytic count" in out
    assert "did not count" in out
    rows = cli("profile", small, "--no-latency", "--counters", "--format", "csv").out
    assert "ptflops-aten" in rows


@pytest.mark.parametrize(
    "options",
    [("--device", "cuda:99"), ("--mode", "graph"), ("--dtype", "int3"), ("--batch", "0")],
    ids=" ".join,
)
def test_what_this_machine_cannot_measure_is_refused_before_anything_is_done(
    options: tuple[str, str], cli: Cli, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sret_nas.counters

    monkeypatch.setattr(sret_nas.counters, "count", lambda *_: pytest.fail("too late"))
    result = cli("profile", small, "--counters", *options)
    assert (result.code, result.out) == (2, "")
    assert options[1] in result.err


def test_a_search_space_is_told_from_an_architecture(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("all_stages: {head_dim: 8}\nstages: [{heads: [1, 2]}]\n")
    broken = tmp_path / "broken.yaml"
    broken.write_text("all_stages: {head_dim: wide}\nstages: 2\n")
    for source in (path, broken, "sret_tiny"):
        result = cli("profile", source, "--no-latency")
        assert (result.code, result.out) == (2, "")
        error, hint = result.err.splitlines()
        assert error == f"error: {source}: a search space, not an architecture"
        assert f"sret-nas spaces check {source}" in hint


def test_a_file_of_several_documents_is_one_line(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(cli("spaces", "sample", "smoke", "-n", "2", "--format", "yaml").out)
    line = 1 + path.read_text().splitlines().index("---")
    for command in (("profile",), ("spaces", "check")):
        result = cli(*command, path)
        assert (result.code, result.out) == (2, "")
        assert result.err.splitlines() == [
            f"error: {path}:{line}: a second document begins; allowed: one in a file",
            "hint: split the file at its lines of ---",
        ]


def test_one_failure_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import sret_nas.latency.building

    real = sret_nas.latency.building.create_model

    def picky(arch: Architecture, **options: Any) -> Any:
        if arch.num_classes == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(arch, **options)

    monkeypatch.setattr(sret_nas.latency.building, "create_model", picky)
    fits, large = Architecture.load(SMALL), Architecture.load(SMALL | {"num_classes": 3})
    archs = {"fits": fits, "large": large}
    good, bad = profile(
        list(archs), measurement=Measurement(seconds=0.5), resolve=archs.__getitem__
    )
    assert good.measured and not good.failures
    assert bad.failures and not bad.measured
    assert bad.params == cost(large).params


def test_time_shares_follow_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage with nearly all the arithmetic takes most of the time."""
    monkeypatch.setattr(breakdown, "WITHIN", 1e9)  # a busy machine is no error here
    data = SMALL | {
        "image_size": 64,
        "stages": [
            {"heads": 1, "head_dim": 4, "groups": [256]},
            {"heads": 4, "head_dim": 64, "recursions": 8},
        ],
    }
    shares = time_by_stage(Architecture.load(data), batch=8).shares
    assert list(shares) == ["stem", "stage 1", "stage 2", "head"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["stage 2"] > 0.5


def test_stages_that_do_not_add_up_have_no_shares() -> None:
    good = breakdown.StageTimes({"stem": 1.0, "head": 3.0}, whole_ms=4.2)
    assert good.note is None
    assert good.shares == {"stem": 0.25, "head": 0.75}
    for whole_ms in (3.4, 5.0):
        bad = breakdown.StageTimes({"stem": 1.0, "head": 3.0}, whole_ms=whole_ms)
        assert bad.shares == {}
        assert bad.note == f"the stages add up to 4 ms, the whole takes {whole_ms:.3g} ms"


def test_stages_are_timed_again_where_they_do_not_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    wholes = iter([9.0, 9.0, 4.0, 9.0])

    def measure(*_: Any) -> breakdown.StageTimes:
        return breakdown.StageTimes({"stem": 1.0, "head": 3.0}, next(wholes))

    monkeypatch.setattr(breakdown, "_measure", measure)
    arch = Architecture.load(SMALL)
    assert time_by_stage(arch).note is None
    assert next(wholes) == 9.0
    wholes = iter([9.0] * 3)
    assert time_by_stage(arch).note is not None


def test_the_whole_is_timed_without_marks_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """In eager mode, and in a recording, which has them or has not."""
    from sret_nas.device import fingerprint
    from sret_nas.latency import modes

    marked: list[int] = []

    class Clock(breakdown._Clock):
        def set(self, index: int) -> None:
            marked.append(index)
            super().set(index)

        def read_ms(self, ends: bool = False) -> list[float]:
            runs.append((ends, marked.copy()))
            marked.clear()
            return super().read_ms(ends)

    def record(run: modes.Run, _: object) -> Any:
        output = run().clone()
        once = marked.copy()

        def replay() -> None:
            recorded = marked.copy()
            output.copy_(run())
            marked[:] = [*recorded, *once]

        marked.clear()
        return replay, output

    monkeypatch.setattr(modes, "record_cuda", record)
    cpu = torch.device("cpu")
    for mode in ("eager", "graph"):
        runs: list[tuple[bool, list[int]]] = []
        settings = preparation.Settings(
            "fp32", torch.float32, cpu, mode, "warm", fingerprint(cpu, 1)
        )
        monkeypatch.setattr(breakdown, "settings_of", lambda *_, settings=settings: settings)
        monkeypatch.setattr(breakdown, "_marks", lambda _, number: Clock(number))
        monkeypatch.setattr(breakdown, "TRIES", 1)
        time_by_stage(Architecture.load(SMALL), runs=2)
        stages = len(SMALL["stages"])
        for ends, seen in runs[2:]:
            assert seen == ([0, -1] if ends else [0, *range(1, stages + 2), -1])
        assert [ends for ends, _ in runs] == [True, False] * 4


def test_a_compiled_model_has_no_stages_and_that_is_said(
    cli: Cli, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **k: compile_(f, backend="eager", **k))
    monkeypatch.setattr(
        breakdown, "time_by_stage", lambda *_, **__: pytest.fail("a compiled model is one piece")
    )
    result = cli("profile", small, "--mode", "compile")
    assert result.code == 0
    assert "compiled in" in result.out and "before it was timed" in result.out
    assert "of time" not in result.out
    assert "time by stage left out: a compiled model is one piece" in result.err
    document = cli("profile", small, "--mode", "compile", "--json").json
    assert document["latency"]["mode"] == "compile"
    assert document["latency"]["compile_s"] > 0
    assert document["time_share_note"] == "a compiled model is one piece"
    assert {row["time_share"] for row in document["by_stage"]} == {None}
    with pytest.raises(UsageError, match="one piece"):
        time_by_stage(Architecture.load(SMALL), mode="compile")


def test_every_figure_carries_its_mode(cli: Cli, small: Path) -> None:
    result = cli("profile", small, "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(result.out))
    assert (row["mode"], row["dtype"]) == ("eager", "fp32")
    table = cli("profile", small).out
    assert "fp32, eager, on" in table
    assert "outputs compared with those of eager fp32: at most 0 of their norm apart" in table


@pytest.mark.cuda(seconds=120)
@pytest.mark.parametrize("mode", ["eager", "graph", "compile", None])
def test_profile_on_cuda(cli: Cli, small: Path, mode: str | None) -> None:
    options = ("--mode", mode) if mode else ()
    document = cli("profile", small, "--device", "cuda", *options, "--json").json
    latency = document["latency"]
    assert latency["device"].startswith("cuda")
    assert latency["peak_bytes"] > 0
    assert latency["mode"] == (mode or "graph")
    assert latency["dtype"] == "bf16"
    assert latency["tf32"] is False


@pytest.mark.cuda
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("batch", [1, 64])
def test_stages_add_up_on_cuda(mode: str, batch: int) -> None:
    found = time_by_stage(Architecture.load("sret_t"), batch, device="cuda", mode=mode)
    assert found.note is None
    assert list(found.shares) == ["stem", "stage 1", "stage 2", "stage 3", "head"]
    assert all(part > 0 for part in found.parts_ms.values())


def test_architectures_and_models_measure_alike() -> None:
    results = measure({"small": Architecture.load(SMALL)}, seconds=0.3)
    assert all(isinstance(result, Latency) for result in results.values())
