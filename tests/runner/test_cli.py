"""``sret-nas search``, ``pareto`` and ``RUN#N``, as one types them; tiny but real trainings."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import timm
import yaml
from PIL import Image

from sret_nas import create_model
from sret_nas.arch import Architecture
from sret_nas.errors import InfeasibleError, UsageError
from sret_nas.proxy import Proxy
from sret_nas.report.known import published_name
from sret_nas.runner import load
from sret_nas.runner.feasibility import published
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir
from sret_nas.study.trials import standing

from ..tiny import TINY

Cli = Callable[..., Any]
pytestmark = pytest.mark.usefixtures("few_test_images")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proxy") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def search(cli: Cli, proxy: Path, tmp_path: Path) -> Cli:
    """Search ``smoke`` with one worker, into the folder ``run``."""

    def call(*arguments: object, out: Path = tmp_path / "run", workers: int = 1) -> Any:
        return cli(
            "search",
            *("smoke", "--proxy", proxy, "--workers", workers, "--out", out),
            *arguments,
        )

    return call


def content(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_run_that_goes_on_elsewhere_says_so(
    search: Cli, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sret_nas.device.hardware.processor", lambda: "Another One")
    result = search("--trials", 2, "--budget", "1M MACs", out=begun)
    assert result.code == 0
    (line,) = [line for line in result.err.splitlines() if "note: the run was on" in line]
    assert "; now on Another One, " in line


def told(result: Any) -> list[str]:
    return [line for line in result.err.splitlines() if line.startswith("trial ")]


def test_a_whole_search_and_what_it_leaves(search: Cli, cli: Cli, tmp_path: Path) -> None:
    result = search("--trials", 4, "--budget", "1M MACs", "--format", "json")
    assert result.code == 0
    document = result.json  # the whole of stdout
    assert document["trials"]["complete"] + document["trials"]["pruned"] == 4
    assert document["front"]
    lines, repeated = told(result), [m for m in document["front"] if m["confirmation"]]
    assert sum("confirmed with seed 1" in line for line in lines) == len(repeated) > 0
    assert len(lines) == 4 + len(repeated)
    run = tmp_path / "run"
    assert json.loads((run / "pareto.json").read_text()) == document
    assert {"config.yaml", "study.db", "pareto.csv", "architectures", "artifacts"} <= {
        path.name for path in run.iterdir()
    }
    for member in repeated:
        assert member["confirmation"]["seeds"] == 2
        assert member["confirmation"]["test_accuracy"] is not None
    for member in document["front"]:
        assert member["metrics"]["macs"] <= 1_000_000
        path = run / "architectures" / f"{member['trial']:03d}.yaml"
        assert Architecture.load(path).id == member["id"]

    same = search("--trials", 4, "--budget", "1M MACs", "--format", "json")
    assert same.code == 0
    assert same.json["front"] == document["front"]
    assert same.json["trials"] == document["trials"]
    assert told(same) == []

    more = search("--trials", 6, "--budget", "1000K MACs", "--format", "json")
    assert more.json["trials"]["complete"] + more.json["trials"]["pruned"] == 6
    assert len([line for line in told(more) if "confirmed" not in line]) == 2

    assert cli("pareto", run, "--json").json == more.json
    assert cli("pareto", run).code == 0
    rows = cli("pareto", run, "--format", "csv").out.splitlines()
    assert len(rows) == 1 + len(more.json["front"])

    assert "device  cpu, torch sees no GPU" in result.err
    assert yaml.safe_load((run / "config.yaml").read_text())["device"] == "cpu"  # not auto
    assert "note: the run was on" not in more.err

    member = more.json["front"][0]
    profiled = cli("profile", f"{run}#{member['trial']}", "--no-latency", "--json")
    assert profiled.json["macs"] == member["metrics"]["macs"]
    named = Architecture.load(f"{run}#{member['trial']}")
    assert named == Architecture.load(member["architecture"])
    built = timm.create_model("sret", architecture=f"{run}#{member['trial']}")
    assert built.arch == create_model(f"{run}#{member['trial']}").arch == named
    with pytest.raises(UsageError, match="no such trial"):
        Architecture.load(f"{run}#99")
    with pytest.raises(UsageError, match="allowed: RUN#N"):
        Architecture.load(f"{run}#x")
    missing = cli("profile", f"{run}#99", "--no-latency")
    assert missing.code == 2
    assert "no such trial" in missing.err
    assert cli("profile", f"{run}#x", "--no-latency").code == 2

    moved = run.rename(tmp_path / "renamed")
    again = search("--trials", 6, "--budget", "1M MACs", "--json", out=moved)
    assert again.json["front"] == more.json["front"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--budget", "50Kparams"], "budget was"),
        (["--seed", 5], "seed was 0, now 5"),
        (["--no-seeds"], "published was true, now false"),
        (["--objectives", "loss,params"], '["val_loss", "params"]'),
        (["--objectives", "loss,macs,params"], '["val_loss", "macs", "params"]'),
        (["--sampler", "random"], 'now "random"'),
        (["--proxy", "fast"], "proxy epochs was 2, now 4"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    changes: list[object], said: str, search: Cli, begun: Path
) -> None:
    before = content(begun)
    result = search("--trials", 9, "--budget", "1M MACs", *changes, out=begun)
    assert result.code == 2
    assert said in result.err
    assert "config.yaml" in result.err
    assert content(begun) == before


def test_another_space_or_other_data_are_refused(
    cli: Cli, begun: Path, proxy: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    smoke = (Path(__file__).parents[2] / "search_spaces" / "smoke.yaml").read_text()
    own.write_text(smoke.replace("mlp_ratio: [2.0, 3.0]", "mlp_ratio: [2.0, 4.0]"))
    arguments = ("--proxy", proxy, "--budget", "1M MACs", "--workers", 1, "--out", begun)
    result = cli("search", own, *arguments)
    assert result.code == 2
    assert "space all_stages mlp_ratio was [2.0, 3.0], now [2.0, 4.0]" in result.err

    data = begun / "config.yaml"
    text = data.read_text()
    config = yaml.safe_load(text)
    config["data"]["fingerprint"] = "0" * 16
    data.write_text(yaml.safe_dump(config))
    result = cli("search", "smoke", *arguments)
    data.write_text(text)
    assert result.code == 2
    assert "data was" in result.err


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, proxy: Path) -> Path:
    """A run with a budget and one trial."""
    from sret_nas.cli.main import run

    out = tmp_path_factory.mktemp("begun") / "run"
    options = ["--proxy", proxy, "--workers", 1, "--budget", "1M MACs", "--trials", 1]
    assert run(["search", "smoke", *map(str, options), "--out", str(out), "--json"]) == 0
    return out


def test_while_one_search_is_at_work_another_is_refused(search: Cli, begun: Path) -> None:
    before = content(begun)
    with RunDir(begun).only_one():
        result = search("--trials", 9, "--budget", "1M MACs", out=begun)
    assert result.code == 2
    assert "another search is at work" in result.err
    assert content(begun) == before


def test_an_impossible_budget_leaves_nothing(search: Cli, tmp_path: Path) -> None:
    result = search("--budget", "1K MACs")
    assert result.code == 3
    assert not (tmp_path / "run").exists()


def test_an_impossible_latency_is_exit_3(search: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from sret_nas.space import Timing

    def clock(*_: object, **__: object) -> Any:
        return lambda arch, batch: Timing(5.0, 0.1, "measured")

    monkeypatch.setattr("sret_nas.runner.making.clock", clock)
    result = search("--budget", "1ms")
    assert result.code == InfeasibleError.exit_code
    assert "50 in a row are too slow; the nearest: 5.1 ms" in result.err


def test_a_latency_is_measured_where_it_is_an_objective(
    search: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sret_nas.latency.bounds.SECONDS", 0.1)
    monkeypatch.setattr("sret_nas.runner.comparison.ROUNDS_S", (0.1,))
    result = search("--objectives", "loss,latency", "--trials", 2, "--json")
    assert result.code == 0
    for member in result.json["front"]:
        assert member["metrics"]["latency_ms"] > 0
    assert result.json["latency"] == {
        "runtime": "torch",
        "mode": "eager",
        "dtype": "fp32",
        "batch": 1,
        "device": "cpu",
    }
    assert "latency torch eager, fp32, batch 1" in result.err


def test_how_a_latency_is_measured_is_asked_for_kept_and_said(
    search: Cli, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sret_nas.latency.bounds.SECONDS", 0.1)
    monkeypatch.setattr("sret_nas.runner.comparison.ROUNDS_S", (0.1,))
    monkeypatch.setattr("sret_nas.device.dtypes.has_dtype", lambda *_: True)  # or emulated
    out = tmp_path / "timed"
    asked = ("--objectives", "loss,latency", "--budget", "900ms@2", "--trials", 1, "--out", out)
    result = search(*asked, "--dtype", "bf16")
    assert result.code == 0, result.err
    assert "latency torch eager, bf16, batch 2" in result.err
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["latency_mode"], config["latency_dtype"]) == ("eager", "bf16")
    assert "ms, torch eager bf16 @2" in " ".join(result.out.split())
    assert cli("pareto", out, "--json").json["latency"]["dtype"] == "bf16"
    other = search(*asked)
    assert other.code == 2 and 'latency dtype was "bf16", now "fp32"' in other.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dtype", "bf16"), "given bf16, but no budget and no objective is a latency"),
        (("--latency-mode", "graph"), "no budget and no objective is a latency"),
        (("--budget", "2ms", "--latency-mode", "graph"), "mode graph needs a CUDA device"),
        (("--budget", "2ms", "--latency-mode", "quick"), "mode: given 'quick'"),
        (("--budget", "2ms", "--dtype", "int4"), "dtype: given 'int4'"),
    ],
)
def test_a_latency_that_cannot_be_measured_so_is_refused(
    search: Cli, options: tuple[str, ...], words: str
) -> None:
    result = search(*options)
    assert result.code == 2
    assert words in result.err


def test_a_dry_run_trains_and_writes_nothing(
    search: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = search("--budget", "1M MACs", "--dry-run", "--json")
    assert result.code == 0
    plan = result.json
    assert 0 < plan["feasible_share"] < 1
    assert plan["expected_s"] > 0
    assert Architecture.load(plan["architecture"]).id
    assert "expected time" in search("--dry-run").out
    assert list(tmp_path.iterdir()) == []


def test_models_and_budgets_fit_the_data(cli: Cli, proxy: Path, tmp_path: Path) -> None:
    space = SearchSpace.load("sret")
    smallest = space.extremes["params"].low
    # Less than any model of a thousand classes has: enough for ten.
    plan = cli(
        *("search", "sret", "--proxy", proxy, "--out", tmp_path / "run"),
        *("--budget", f"{smallest - 1}params", "--dry-run", "--json"),
    )
    assert plan.code == 0
    arch = Architecture.load(plan.json["architecture"])
    assert (arch.num_classes, arch.in_chans) == (10, 1)
    said = "models  num_classes 10 as the data have; in_chans 1 as the data have"
    assert plan.err.count(said) == 1


def test_a_space_that_names_its_classes_keeps_them(cli: Cli, proxy: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    sret = (Path(__file__).parents[2] / "search_spaces" / "sret.yaml").read_text()
    own.write_text(sret + "\nnum_classes: 100\n")
    plan = cli("search", own, "--proxy", proxy, "--out", tmp_path / "run", "--dry-run", "--json")
    arch = Architecture.load(plan.json["architecture"])
    assert (arch.num_classes, arch.in_chans) == (100, 1)
    assert "num_classes 100 as the space says, where the data have 10" in plan.err


def test_published_variants_are_tried_with_the_head_of_the_data() -> None:
    space = SearchSpace.load("sret").fitted(num_classes=10, in_chans=1)
    config = RunConfig(space={}, data={}, proxy=Proxy.load("fast"))
    found = published(space, config)
    assert len(found) > 1
    assert {(arch.num_classes, arch.in_chans) for arch in found} == {(10, 1)}
    assert all(published_name(arch) for arch in found)
    assert len(found) == len(published(SearchSpace.load("sret"), config))


def test_a_plan_is_of_what_is_left(search: Cli, begun: Path) -> None:
    """Only what is not done yet, and nothing of the run is touched."""
    before = content(begun)
    same = ("--budget", "1M MACs", "--trials")
    plan = search(*same, 5, "--dry-run", "--json", out=begun).json
    done = plan["finished"]
    assert plan["trials"] == 5
    assert plan["left"] == 5 - done > 0
    shown = search(*same, 5, "--dry-run", out=begun).out
    assert f"{5 - done}, after {done} that are done" in shown
    assert "{" not in shown  # the sample is in words
    other = search("--trials", 5, "--dry-run", out=begun)
    assert other.code == 2
    assert "is another run: budget was" in other.err
    assert content(begun) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--timeout", "150s"], "expect  150 s, by --timeout: about "),
        (
            ["--timeout", "0.1s", "--trials", 9],
            "expect  0 s, by --timeout: 9 candidates would take",
        ),
        (["--timeout", "99h", "--trials", 1], " for 1 candidate, by the speed measured just now"),
    ],
)
def test_what_bounds_a_search_bounds_what_to_expect(
    arguments: list[object], expected: str, search: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sret_nas.runner.search", stopped)
    assert expected in search(*arguments).err


def test_a_run_that_goes_on_expects_what_is_left(search: Cli, begun: Path) -> None:
    done = search("--budget", "1M MACs", "--trials", 2, "--dry-run", "--json", out=begun).json
    again = search("--budget", "1M MACs", "--trials", done["finished"], out=begun)
    assert "expect  nothing more to train" in again.err
    more = search("--budget", "1M MACs", "--trials", done["finished"] + 1, out=begun)
    assert " for 1 more candidate, by what those before took" in more.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "4G"], "4G"),
        (["--objectives", "macs"], "trained"),
        (["--objectives", "loss,mcs"], "did you mean 'macs'"),
        (["--objectives", "loss,loss"], "twice"),
        (["--sampler", "tpee"], "did you mean 'tpe'"),
        (["--timeout", "soon"], "--timeout"),
        (["--timeout", "0"], "--timeout"),
        (["--trials", "0"], "--trials"),
        (["--device", "tpu"], "tpu"),
        (["--data", "nowhere"], "nowhere"),
        (["--seed", "-1"], "--seed"),
        (["--format", "xml"], "xml"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(
    arguments: list[str], said: str, search: Cli, tmp_path: Path
) -> None:
    result = search(*arguments)
    assert result.code == 2
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert result.out == ""
    assert not (tmp_path / "run").exists()


def test_bad_places_for_a_run(search: Cli, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "below"):
        result = search("--trials", 1, out=out)
        assert result.code == 2
        assert "cannot be written" in result.err
    mine = tmp_path / "mine" / "architectures"
    mine.mkdir(parents=True)
    (mine / "precious.yaml").write_text("x")
    result = search("--trials", 1, out=mine.parent)
    assert result.code == 2
    assert "is not a run" in result.err
    assert [p.name for p in mine.parent.rglob("*") if p.is_file()] == ["precious.yaml"]


def test_a_study_file_that_is_none(search: Cli, cli: Cli, begun: Path) -> None:
    database = begun / "study.db"
    whole = database.read_bytes()
    try:
        for rubbish in (
            b"no database at all, but long enough to be read as one" * 50,
            whole[:5000],
        ):
            database.write_bytes(rubbish)
            for result in (
                search("--trials", 2, "--budget", "1M MACs", out=begun),
                cli("pareto", begun),
            ):
                assert result.code in (1, 2)
                assert "this is a bug" not in result.err
                assert result.err.count("error: ") == 1
            assert database.read_bytes() == rubbish
    finally:
        database.write_bytes(whole)


def test_what_is_no_run_has_no_front(cli: Cli, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        result = cli("pareto", path)
        assert result.code == 2
        assert "not a run" in result.err


def test_the_time_counts_over_the_whole_run(search: Cli, tmp_path: Path) -> None:
    first = search("--timeout", "0.3s", "--json")
    assert first.code == 0
    assert "the time is up" in first.err
    before = len(standing(load(tmp_path / "run").study))
    again = search("--timeout", "0.3s", "--json")
    assert len(standing(load(tmp_path / "run").study)) == before
    assert "the time is up" in again.err
    longer = search("--timeout", "1h", "--trials", before + 1, "--json")
    assert "the time is up" not in longer.err
    assert len(standing(load(tmp_path / "run").study)) == before + 1


def test_a_search_that_tried_everything_says_so(
    cli: Cli, proxy: Path, tmp_path: Path, few: Any
) -> None:
    space = tmp_path / "few.yaml"
    space.write_text(yaml.safe_dump(few | {"each_stage": {"mlp_ratio": 2.0}}))
    arguments = (space, "--proxy", proxy, "--workers", 1, "--out", tmp_path / "run", "--json")
    result = cli("search", *arguments)
    assert result.code == 0
    assert "the search ended early: all acceptable architectures of space 'few'" in result.err
    assert result.json["interrupted"] == 0
    assert all("interrupted" not in line for line in told(result))


def test_without_a_run_the_front_is_that_of_the_newest(
    search: Cli, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SRET_NAS_STORAGE", raising=False)
    nothing = cli("pareto")
    assert nothing.code == 2 and "which run? there is none in runs/" in nothing.err
    for name, trials in (("new", 2), ("old", 1)):
        assert search("--trials", trials, out=Path("runs") / name).code == 0
    for path in Path("runs/old").iterdir():
        os.utime(path, (0, 0))
    found = cli("pareto", "--json")
    assert found.err == "run     runs/new\n"
    assert found.json == cli("pareto", "runs/new", "--json").json
    assert cli("report").out.strip() == "runs/new/report.html"


def test_after_an_upgrade_a_run_goes_on_with_leave_alone(search: Cli, tmp_path: Path) -> None:
    assert search("--trials", 1).code == 0
    config = tmp_path / "run" / "config.yaml"
    study = load(tmp_path / "run").study
    old = yaml.safe_load(config.read_text())
    old["versions"]["torch"] = "1.0"
    config.write_text(yaml.safe_dump(old))
    study.set_user_attr("config", old)
    before = content(tmp_path / "run")
    refused = search("--trials", 2)
    assert refused.code == 2
    assert "1.0 there" in refused.err and "--accept-versions" in refused.err
    assert content(tmp_path / "run") == before
    accepted = search("--trials", 2, "--accept-versions")
    assert accepted.code == 0 and "goes on with sret_nas" in accepted.err
    assert "went on with" in (tmp_path / "run" / "report.html").read_text()
    assert search("--trials", 3).code == 0


def test_workers_here_get_the_list_of_the_files(
    search: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are listed once a run, however many workers."""
    from sret_nas.data import folder
    from sret_nas.runner import run as runs

    for k in range(40):
        path = tmp_path / "images" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), k).save(path)
    made = []

    class ProcessExecutor:
        def __init__(self, run: Any, config: Any, stop: Any, watch: Any, slots: Any, make: Any):
            monkeypatch.setattr(folder, "folder", lambda *_: pytest.fail("listed again"))
            make = pickle.loads(pickle.dumps(make))
            made.extend(make(run, config, stop, slot, quiet=True) for slot in slots)

        def work(self, study: optuna.Study) -> None:
            pass

    monkeypatch.setattr(runs, "ProcessExecutor", ProcessExecutor)
    done = search("--data", tmp_path / "images", "--trials", 2, workers=2)
    assert done.code == 0, done.err
    assert [len(worker.evaluator.evaluator.data.train) for worker in made] == [32, 32]


def test_a_new_run_for_changed_data_says_so(
    cli: Cli, proxy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for k in range(20):
        path = tmp_path / "images" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), k).save(path)
    command = ("search", "smoke", "--proxy", proxy, "--data", "images", "--workers", 1)
    first = cli(*command, "--trials", 1)
    assert first.code == 0 and "data have changed" not in first.err
    assert "data have changed" not in cli(*command, "--trials", 1, "--dry-run").err
    Image.new("L", (28, 28), 99).save(path)
    (known,) = (tmp_path / "runs").iterdir()
    changed = cli(*command, "--trials", 1, "--dry-run")
    assert f"the data have changed since runs/{known.name} was begun" in changed.err
    other = cli(*command, "--trials", 1, "--dry-run", "--seed", 1)
    assert "data have changed" not in other.err
