"""docs/extending.md: a field touches the files that it lists, and its example works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import sret_nas
from sret_nas import Architecture

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^\d\. `(.*?)`", TEXT, re.MULTILINE)
SPARED = re.findall(r"`([\w/]+\.py)`", TEXT.split("\n`sret_nas/zoo.py`")[1].split("\n\n")[0])
FOUND = re.search(r"```diff\n(.*?)```", TEXT, re.DOTALL)
assert FOUND is not None
CHANGES = dict(re.findall(r"^--- (\S+)\n(.*?)(?=^--- |\Z)", FOUND[1], re.MULTILINE | re.DOTALL))
WRITTEN_ANEW = "sret_nas/architecture.schema.json"


def test_it_lists_every_file_of_the_package_that_names_a_field() -> None:
    """The one that is most like a new one: it may be left out."""
    files = [*(ROOT / "sret_nas").rglob("*"), *(ROOT / "cli").rglob("*")]
    naming = {
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix in (".py", ".json")
        and re.search("nll_(ratio|hidden)", path.read_text(encoding="utf-8"))
    }
    here = {step for step in STEPS if step.startswith("sret_nas/")}
    assert naming == here | set(SPARED) | {"sret_nas/zoo.py"}
    assert "mlp_ratio" not in "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "sret_nas" / "space").rglob("*.py")
    )


def test_it_counts_them() -> None:
    assert f"A new field touches {len(STEPS)} files:" in TEXT
    assert len(STEPS) <= 8
    assert {*CHANGES, WRITTEN_ANEW, "CHANGELOG.md"} == set(STEPS)


def apply(change: str, path: Path) -> None:
    """A change without line numbers: what is there before is there once."""
    text = path.read_text(encoding="utf-8")
    for hunk in change.split("@@\n")[1:]:
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        assert text.count(before) == 1, f"{path.name} is not as the example has it: {before}"
        text = text.replace(before, after)
    path.write_text(text, encoding="utf-8")


def test_its_example_works(tmp_path: Path) -> None:
    """With the changes that are listed and no others, a search knows all of a new field."""
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sret_nas", tmp_path / "sret_nas", ignore=skipped)
    for name in ("README.md", "tests/test_cost.py", "scripts/schema.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, change in CHANGES.items():
        apply(change, tmp_path / name)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    ids = [Architecture.load(name).id for name in ("sret_t", "sret_s_512")]
    assert Path(sret_nas.__file__).parent == ROOT / "sret_nas"
    for script in (tmp_path / "scripts" / "schema.py", ROOT / "tests" / "new_field.py"):
        done = subprocess.run(
            [sys.executable, script, *ids], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert "tail_ratio" in (tmp_path / WRITTEN_ANEW).read_text(encoding="utf-8")
