"""Lines that nobody should type: every command, every option, values that break things.

What must hold for each: an exit code of the contract, no traceback and no "bug", at most
three lines of complaint, no control character of what was given, nothing written.
"""

from __future__ import annotations

import contextlib
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from PIL import Image
from sret_nas.cli.main import run as run_line

import sret_nas
from sret_nas.errors import UsageError
from sret_nas.model import create_model
from sret_nas.proxy import Proxy
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig, versions
from sret_nas.study.rundir import RunDir

NUMBER, SEED = 600, 14
CODES = {0, 1, 2, 3}
OUTPUTS = (["--out"], ["--draw"], ["--csv"])
"""Options whose value may be written."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
LONG = "9" * 400
VALUES = [
    "", " ", "\t", "\x00", "a\x00b", "\x1b[31mred\x1b[0m", "\x9b2J", "a\rb", "a\nb\nc\nd\ne",
    "x" * 300, "x/" * 3000, LONG, f"-{LONG}", f"1e{LONG}", "-1", "0", "00", "1e400", "nan", "inf",
    "-inf", "1.5", "2147483648", "9223372036854775808", "0x10", "１２", "½", "4G", "4GFLOPs@0",
    f"{LONG}GFLOPs", "1e-400MACs", "1ms@99999999999", "🦊", "\ud800", "../..", "/", "/proc",
    "/proc/self/mem", "/dev/null", "/dev/zero", "/dev/full", "/dev/stdin", "/nowhere/x.yaml",
    "{}", "[]", "null", "true", "~", "~nobody/x", ".", "*", "%s%n", "$HOME", "'; --", "--", "-",
    "@", "@/nowhere", "@/dev/zero", "sqlite:///", "sqlite:///:memory:", "sqlite:////proc/x/y.db",
    "sqlite:///\x00", "postgresql://", "mysql://u:p@", "grpc://x", "grpc://x:y", "http://x",
    "#", "#1", "nowhere#0", "{run}#0", "{run}#-1", "{run}#x", f"{{run}}#{LONG}", "{run}", "{plain}",
    "{empty}", "{binary}", "{image}", "{control}", "{deep}", "{wide}", "{locked}", "{folder}",
    "a:b", "os:system", "os:nothing", "timm:vit", "hf-hub:x/y", "local-dir:/proc", "cpu:0",
    "cuda:99", "cuda:-1", "cuda:x", "loss", "loss,loss", "macs,macs", ",", ",,,", "1,2,", "0,0",
    "resnet18.nope", "resnet18.", "vit_\x1b", "torchvision:", "torch/cifar10\x00", "tfds/x",
    "hfds/",
]  # fmt: skip
COMMANDS: dict[str, list[list[str]]] = {
    "search {space} --dry-run --data {images} --proxy {proxy}": [
        ["--budget"], ["--objectives"], ["--trials"], ["--timeout"], ["--data"], ["--proxy"],
        ["--sampler"], ["--device"], ["--workers"], ["--engine"], ["--storage"], ["--study"],
        ["--out"], ["--seed"], ["--format"],
    ],
    "search --dry-run --data {images} --proxy {proxy}": [[]],
    "worker --storage sqlite:///{run}/study.db --study other": [
        ["--device"], ["--workers"], ["--engine"], ["--storage"], ["--study"], ["--data"],
    ],
    "runs": [[], ["--storage"], ["--format"]],
    "profile --no-latency": [[], ["--by"], ["--format"], ["--threads"]],
    "profile {arch} --no-latency": [
        [], ["--by"], ["--batch"], ["--dtype"], ["--mode"], ["--device"], ["--threads"],
        ["--draw"], ["--format"],
    ],
    "evaluate": [[], ["--predict", "{image}"]],
    "evaluate {model}": [
        [], ["--data"], ["--split"], ["--batch"], ["--dtype"], ["--device"], ["--threads"],
        ["--arch"], ["--csv"], ["--mean"], ["--std"], ["--interpolation"], ["--crop-pct"],
        ["--format"], ["--predict"],
    ],
    "calibrate {space}": [
        ["-n"], ["--holdout"], ["--batch"], ["--dtype"], ["--mode"], ["--device"], ["--threads"],
        ["--seed"], ["--format"],
    ],
    "calibrate": [[]],
    "pareto": [[], ["--storage"], ["--study"], ["--format"]],
    "pareto {run}": [["--storage"], ["--study"], ["--format"]],
    "report": [[], ["--storage"], ["--study"]],
    "report {run}": [["--out"]],
    "dashboard --no-browser": [[], ["--storage"], ["--study"]],
    "dashboard {run} --no-browser": [["--host"], ["--port"]],
    "doctor": [[], ["--format"]],
    "spaces": [[]],
    "spaces list": [[], ["--format"]],
    "spaces show": [[], ["--format"]],
    "spaces check": [[]],
    "spaces check {space}": [["--budget"], ["--device"], ["--seed"], ["--format"]],
    "spaces sample": [[]],
    "spaces sample {space}": [["-n"], ["--budget"], ["--device"], ["--seed"], ["--format"]],
    "": [[]],
}  # fmt: skip


class ComesSoFarError(UsageError):
    """In place of work that takes a while."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that lines name: good ones, and what only looks like one."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    home = tmp_path_factory.mktemp("world")
    files = {name: home / name for name in ("empty.yaml", "binary.yaml", "control.yaml")}
    files["empty.yaml"].touch()
    files["binary.yaml"].write_bytes(bytes(range(256)) * 20)
    files["control.yaml"].write_text("name: a\x01b\x1b[31m\n")
    (home / "deep.yaml").write_text("[" * 3000)
    (home / "wide.yaml").write_text(f"schema: {LONG}\nimage_size: {LONG}\nstages: []\n")
    (home / "image.png").touch()
    for part in ("a", "b"):
        for i in range(40):
            path = home / "images" / part / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (28, 28), (i, 2 * i, 90 * (part == "a"))).save(path)
    proxy = {"image_size": 28, "epochs": 2, "rungs": [1, 2], "seeds": 1, "batch": 8, "width": 0.5}
    proxy |= {"subset": 32, "val_images": 16}
    (home / "proxy.yaml").write_text(yaml.safe_dump(proxy))
    space = SearchSpace.load("smoke")
    space.sample(1, seed=0)[0].save(home / "arch.yaml")
    sret_nas.save(create_model(space.sample(1, seed=0)[0]), home / "model")
    config = RunConfig(
        space=space.file.model_dump(mode="json", by_alias=True, exclude_unset=True),
        data={"source": "demo", "fingerprint": "0"},
        proxy=Proxy.load(proxy),
        versions=versions(),
    )
    made = RunDir(home / "run")
    with made.only_one():
        made.study(create=made.begin(config))
    plain = optuna.create_study(study_name="plain", storage=f"sqlite:///{home}/plain.db")
    plain.add_trial(optuna.trial.create_trial(value=1.0))
    return {
        "space": "smoke",
        "images": str(home / "images"),
        "proxy": str(home / "proxy.yaml"),
        "arch": str(home / "arch.yaml"),
        "model": str(home / "model"),
        "run": str(home / "run"),
        "plain": f"sqlite:///{home}/plain.db",
        "empty": str(home / "empty.yaml"),
        "binary": str(home / "binary.yaml"),
        "control": str(home / "control.yaml"),
        "deep": str(home / "deep.yaml"),
        "wide": str(home / "wide.yaml"),
        "image": str(home / "image.png"),
        "locked": str(home / "empty.yaml" / "below"),
        "folder": str(home / "images"),
        "home": str(home),
    }


def lines(seed: int = SEED) -> list[tuple[str, list[str], str]]:
    """Commands with one bad value each, drawn with a fixed seed; every place and value occurs."""
    places = [(base, option) for base, options in COMMANDS.items() for option in options]
    drawn = random.Random(seed)
    found = []
    for i in range(NUMBER):
        base, option = places[i % len(places)]
        value = VALUES[drawn.randrange(len(VALUES))]
        if option in OUTPUTS:  # were one replaced, the machine would miss it
            value = value.replace("/dev/", "{home}/")
        found.append((base, option, value))
    return found


def fill(text: str, world: dict[str, str]) -> str:
    for name, path in world.items():
        text = text.replace("{" + name + "}", path)
    return text


def content(home: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path(home).rglob("*") if p.is_file()}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Work that takes a while is not begun: a line that comes so far was well formed."""
    import sret_nas.runner
    from sret_nas.report import dashboard
    from sret_nas.runner import estimate

    def stop(*_: object, **__: object) -> Any:
        raise ComesSoFarError("comes so far")

    monkeypatch.setattr(sret_nas.runner, "search", stop)
    monkeypatch.setattr(sret_nas.runner, "join", stop)
    monkeypatch.setattr(estimate, "estimate", stop)
    monkeypatch.setattr("sret_nas.latency.calibrate", stop)
    monkeypatch.setattr("sret_nas.deploy.evaluation.evaluate", stop)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", stop)
    monkeypatch.setattr(dashboard.Dashboard, "serve", stop)
    monkeypatch.setattr("sret_nas.study.retrying.RETRY_S", 0.0)
    for name in ("SRET_NAS_STORAGE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield


def wrong(code: int, out: str, err: str) -> Iterator[str]:
    """What is wrong with how a line was answered."""
    if code not in CODES:
        yield f"exit {code}"
    for word in ("Traceback", "this is a bug"):
        if word in out + err:
            yield word
    complaints = [one for one in err.splitlines() if one.startswith(("error:", "hint:"))]
    if len(complaints) > 3 or (code and not complaints):
        yield f"{len(complaints)} lines of complaint"
    if max(map(len, complaints), default=0) > 1000:
        yield "a line without end"
    if CONTROL.search(out + err):
        yield "control characters"


def answered(
    drawn: list[tuple[str, list[str], str]],
    world: dict[str, str],
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """Run lines, and tell what is wrong."""
    bad = []
    for base, option, value in drawn:
        arguments = [*fill(base, world).split(), *option, fill(value, world)]
        capsys.readouterr()
        code = run_line(arguments)
        told = capsys.readouterr()
        bad += [f"{arguments}: {what}: {told.err[-300:]}" for what in wrong(code, *told)]
        written = [str(p) for p in here.iterdir()]
        if code and written:
            bad.append(f"{arguments}: wrote {written}")
        for path in sorted(here.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    return bad


def test_no_line_breaks_a_command(
    world: dict[str, str], quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(world["home"])
    assert not (bad := answered(lines(), world, tmp_path, capsys)), "\n".join(bad)
    after = content(world["home"])
    changed = {path for path in {**before, **after} if before.get(path) != after.get(path)}
    outputs = {fill(value, world) for _, option, value in lines() if option in OUTPUTS}
    assert changed <= outputs | {f"{world['run']}/report.html"}, changed - outputs


RECORDS = {
    "study_user_attributes": ("value_json", ["null", "[]", "3", "{", '"\x1b[31m"', '{"a": 1}', ""]),
    "trial_user_attributes": ("value_json", ["null", "[]", "3", "{", '"\x1b[31m"', '{"a": 1}', ""]),
    "trial_params": ("distribution_json", ["null", "{", "{}", ""]),
    "studies": ("study_name", ["\x1b[31mred", ""]),
    "study_directions": ("direction", ["NOWHERE"]),
    "trial_values": ("value", ["high"]),
    "trials": ("state", ["GONE"]),
    "version_info": ("schema_version", ["99"]),
}
"""Columns of a study's database, and what somebody may write there."""


def test_no_broken_record_breaks_a_command(
    quick: None, lab: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = lab.config(trials=3)
    run = RunDir(lab.folder)
    config = run.begin(config)
    lab.worker(config, run.study(create=config)).search()
    whole = run.database.read_bytes()
    before = content(str(run.path))
    with contextlib.closing(sqlite3.connect(run.database)) as database:
        keys = {
            table: [key for (key,) in database.execute(f"SELECT DISTINCT key FROM {table}")]
            for table in ("study_user_attributes", "trial_user_attributes")
        }
    bad = []
    for table, (column, values) in RECORDS.items():
        for key in keys.get(table, [None]):
            for value in values:
                with contextlib.closing(sqlite3.connect(run.database)) as database:
                    where = "" if key is None else " WHERE key = ?"
                    change = f"UPDATE {table} SET {column} = ?{where}"
                    database.execute(change, (value, key)[: 2 - (key is None)])
                    database.commit()
                for command in (["pareto"], ["pareto", "--json"], ["runs"], ["profile"]):
                    of = {"runs": str(run.path.parent), "profile": f"{run.path}#0"}
                    line = [*command, of.get(command[0], str(run.path))]
                    line += ["--no-latency"] if command == ["profile"] else []
                    capsys.readouterr()
                    code = run_line(line)
                    told = capsys.readouterr()
                    bad += [f"{line} {table} {key} {value!r}: {what}: {told.err[-300:]}"
                            for what in wrong(code, *told)]  # fmt: skip
                run.database.write_bytes(whole)
    assert not bad, f"{len(bad)}\n" + "\n".join(bad)
    assert content(str(run.path)) == before


def test_a_refused_place_leaves_no_folder(tmp_path: Path) -> None:
    for below in ("new/" + "x" * 300, "new/a\x00b"):
        with (
            pytest.raises(UsageError, match="cannot be written"),
            RunDir(tmp_path / below).only_one(),
        ):
            pass
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_standard_output_is_one_line() -> None:
    program = Path(sys.executable).with_name("sret-nas")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [program, "spaces", "list"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "No space left" in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not memory enough"),
        (ImportError("libx.so: failed to map segment: Cannot allocate memory"), "not memory"),
        (ImportError("libx.so: undefined symbol"), "a package cannot be loaded: libx.so"),
        (OSError(12, "Cannot allocate memory"), "not memory enough"),
        (OSError(28, "No space left on device", "a\x1bb"), r"a\x1bb: No space left"),
    ],
)
def test_what_the_machine_refuses_is_no_bug(
    error: Exception, said: str, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def findings() -> Any:
        raise error

    monkeypatch.setattr("sret_nas.doctor.findings", findings)
    result = cli("doctor")
    assert result.code == 1 and said in result.err
    assert not list(wrong(*result))
