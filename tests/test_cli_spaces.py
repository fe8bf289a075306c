"""``sret-nas spaces``."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from sret_nas import Architecture, SearchSpace, zoo
from sret_nas.cost import cost


def test_list(cli: Any) -> None:
    result = cli("spaces", "list", "--json")
    assert result.code == 0
    rows = {row["name"]: row for row in result.json}
    assert list(rows) == ["deep", "smoke", "sret", "sret_tiny"]
    assert rows["smoke"]["encodings"] == SearchSpace.load("smoke").size
    assert rows["deep"]["params_high"] < 15_000_000
    assert "sret_tiny" in cli("spaces", "list").out


def test_show_prints_a_file_to_copy(cli: Any, tmp_path: Path) -> None:
    result = cli("spaces", "show", "sret")
    assert result.code == 0 and result.err == ""
    assert "encodings" in result.out.splitlines()[0]
    (tmp_path / "mine.yaml").write_text(result.out)
    assert cli("spaces", "show", tmp_path / "mine.yaml").code == 0
    document = cli("spaces", "show", "sret", "--json").json
    assert document["architectures"]["exact"]
    assert document["metrics"]["macs"]["low"] == SearchSpace.load("sret").extremes["macs"].low
    rows = list(csv.DictReader(cli("spaces", "show", "sret", "--format", "csv").out.splitlines()))
    assert [row["coordinate"] for row in rows][:2] == ["all.head_dim", "all.mlp_ratio"]


def test_show_of_a_json_file_is_yaml(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"stages": [{"heads": [1, 2], "head_dim": 8}]}')
    assert cli("spaces", "show", path, "--json").json["encodings"] == 2
    shown = cli("spaces", "show", path)
    assert shown.code == 0 and '"heads": [1, 2]' in shown.out
    (tmp_path / "mine.yaml").write_text(shown.out)
    assert SearchSpace.load(tmp_path / "mine.yaml").size == 2


def test_check(cli: Any) -> None:
    result = cli("spaces", "check", "sret", "--budget", "4GMACs", "--budget", "1GB", "--json")
    assert result.code == 0
    found = result.json
    assert found["budget"] == {"macs": 4_000_000_000, "peak_bytes": 1_000_000_000}
    assert 0.9 < found["share"]["low"] < found["share"]["value"] < 1
    macs = found["metrics"]["macs"]
    assert macs["min"] < macs["q1"] < macs["median"] < macs["q3"] < macs["max"] and macs["exact"]
    published = {row["name"]: row for row in found["published"]}
    assert list(published) == list(zoo.PUBLISHED)
    assert all(row["contained"] for row in published.values())
    assert published["sret_t"]["feasible"] and not published["sret_s"]["feasible"]
    assert published["sret_s"]["metrics"]["macs"] == cost(zoo.PUBLISHED["sret_s"]).macs
    assert "1GB excludes nothing" in result.err and "4GMACs excludes" not in result.err


def test_check_tables(cli: Any) -> None:
    result = cli("spaces", "check", "sret_tiny", "--budget", "500M MACs")
    assert result.code == 0
    for word in ("feasible", "median", "500M", "sret_lt_16_14_wo_slice", "memory"):
        assert word in result.out
    rows = list(csv.DictReader(cli("spaces", "check", "smoke", "--format", "csv").out.splitlines()))
    assert [row["metric"] for row in rows] == ["macs", "params", "peak_bytes"]


def test_check_of_an_impossible_budget(cli: Any) -> None:
    result = cli("spaces", "check", "sret", "--budget", "100MMACs", "--json")
    assert result.code == 3
    assert result.json["feasible"] is False and result.json["share"]["value"] == 0
    bound = result.json["bounds"]["macs"]
    lightest = Architecture.load(bound["architecture"])
    assert cost(lightest).macs == bound["smallest"] > 100_000_000 and bound["tightest"]
    assert f"{bound['smallest']:,}" in result.err and lightest.id in result.err


def test_check_loads_no_torch() -> None:
    code = (
        "import sys; from sret_nas.cli.main import run;"
        "code = run(['spaces', 'check', 'sret', '--budget', '4GMACs']);"
        "print('torch' in sys.modules, code)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "False 0"


def test_sample_as_yaml_loads_again(cli: Any) -> None:
    result = cli("spaces", "sample", "sret", "-n", "5", "--budget", "1GMACs", "--format", "yaml")
    assert result.code == 0
    archs = [Architecture.load(data) for data in yaml.safe_load_all(result.out)]
    assert len({arch.id for arch in archs}) == 5
    assert all(cost(arch).macs <= 10**9 for arch in archs)
    assert archs == SearchSpace.load("sret").sample(5, 0, ["1GMACs"])


def test_sample_in_other_formats(cli: Any) -> None:
    rows = cli("spaces", "sample", "smoke", "-n", "3", "--json").json
    for row in rows:
        arch = Architecture.load(row["architecture"])
        assert (row["id"], row["macs"]) == (arch.id, cost(arch).macs)
    table = cli("spaces", "sample", "smoke", "-n", "3", "--seed", "1")
    assert table.code == 0 and not set(table.out.split()) & {row["id"] for row in rows}
    few = cli("spaces", "sample", "smoke", "-n", "5000", "--format", "csv")
    assert few.code == 0 and len(few.out.splitlines()) == 1728 + 1
    assert "1728 instead of 5000" in few.err


def test_an_architecture_is_told_from_a_search_space(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(cli("spaces", "sample", "smoke", "-n", "1", "--format", "yaml").out)
    for source in (path, "sret_t"):
        for command in ("check", "show", "sample"):
            result = cli("spaces", command, source)
            assert (result.code, result.out) == (2, "")
            assert result.err.splitlines() == [
                f"error: {source}: an architecture, not a search space",
                f"hint: sret-nas profile {source}",
            ]


def test_exit_codes(cli: Any, tmp_path: Path) -> None:
    assert cli("spaces", "sample", "sret", "--budget", "1MMACs").code == 3
    wrong = cli("spaces", "check", "sret", "--budget", "4G")
    assert wrong.code == 2 and "no unit" in wrong.err and "1GiB" in wrong.err
    assert cli("spaces", "check", "nowhere").code == 2
    (tmp_path / "mine.yaml").write_text("stages:\n  - {heads: []}\n")
    broken = cli("spaces", "check", tmp_path / "mine.yaml")
    assert broken.code == 2 and "mine.yaml:2: stage 1 heads: given an empty list" in broken.err
    assert cli("spaces", "sample", "sret", "-n", "0").code == 2


def test_a_width_that_is_asked_for_holds_in_a_pipe_too(monkeypatch) -> None:
    import io

    from sret_nas.cli import output

    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output.stdout().width == 10_000
    monkeypatch.setenv("COLUMNS", "80")
    assert output.stdout().width == 80
