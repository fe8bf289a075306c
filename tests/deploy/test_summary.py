"""``summary.csv``: what is written is read again, and what is broken is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sret_nas.deploy.summary import Epoch, read_summary, write_summary
from sret_nas.errors import ConfigError

ROWS = [Epoch(1, 2.5, 2.25, 0.125, 0.001, 96.5, 3.0), Epoch(2, 1.5, 1.75, 0.5, 0.0005, 100, 2.0)]
HEADING = "epoch,train_loss,val_loss,val_accuracy,lr,images_per_second,seconds\n"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_summary(tmp_path) == []
    write_summary(tmp_path, ROWS)
    assert (tmp_path / "summary.csv").read_text().startswith(HEADING + "1,2.5,2.25,0.125,0.001,")
    assert read_summary(tmp_path) == ROWS


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("a,b\n1,2\n", 1),
        (HEADING + "1,2,2,0.1,1,9,1\n2,2,2\n", 3),
        (HEADING + "1,2,2,0.1,1,9,1,4\n", 2),
        (HEADING + "1,2,x,0.1,1,9,1\n", 2),
        (HEADING + "1,2,nan,0.1,1,9,1\n", 2),
        (HEADING + "inf,2,2,0.1,1,9,1\n", 2),
        (HEADING + "2,2,2,0.1,1,9,1\n", 2),
        (HEADING + "\n", 2),
    ],
)
def test_what_is_broken_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "summary.csv").write_text(text)
    with pytest.raises(ConfigError, match=rf"summary\.csv:{line}: given .*; allowed: ") as error:
        read_summary(tmp_path)
    assert "\n" not in str(error.value)
