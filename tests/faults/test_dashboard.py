"""The dashboard of a study in PostgreSQL: the same as of one in a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from optuna.trial import create_trial

from sret_nas.cost import cost
from sret_nas.proxy import Proxy
from sret_nas.space import SearchSpace
from sret_nas.study.config import RunConfig
from sret_nas.study.rundir import RunDir

PROXY = {"image_size": 28, "epochs": 2, "rungs": [1, 2], "seeds": 2}
DEADLINE_S = 60.0


def begun(folder: Path, url: str) -> None:
    """A study with a few trials, as a search leaves them."""
    space = SearchSpace.load("smoke")
    config = RunConfig(
        space=space.file.model_dump(mode="json", by_alias=True, exclude_unset=True),
        budget=("4MMACs",),
        data={"source": "demo", "fingerprint": "0"},
        proxy=Proxy.load(PROXY),
    )
    study = RunDir(folder / "run", url, "looked-at").study(create=config)
    for arch in space.sample(3, seed=0):
        found, params = cost(arch), space.params(space.encode(arch))
        metrics = {"macs": found.macs, "params": found.params, "peak_bytes": found.peak_bytes}
        metrics |= {"val_loss": 1e6 / found.macs, "val_accuracy": 0.5}
        curve = [{"epoch": 1, "train_loss": 2.0, "val_loss": 2.0, "val_accuracy": 0.3}]
        study.add_trial(
            create_trial(
                values=[metrics["val_loss"], found.macs],
                params=params,
                distributions={key: space.distributions[key] for key in params},
                user_attrs={
                    "id": arch.id, "architecture": arch.to_dict(), "metrics": metrics,
                    "curve": [epoch | {"seconds": 1.0} for epoch in curve],
                },
            )
        )  # fmt: skip


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        body: bytes = answer.read()
        return body


def test_a_study_without_a_folder(url: str, tmp_path: Path) -> None:
    begun(tmp_path, url)
    program = str(Path(sys.executable).with_name("sret-nas"))
    process = subprocess.Popen(
        [program, "dashboard", "--study", "looked-at", "--no-browser", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"SRET_NAS_STORAGE": url, "SRET_NAS_CACHE": str(tmp_path / "cache")},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        study: dict[str, Any] = json.loads(get(address.replace("/dashboard/", "/api/")))
        assert study["objective_names"] == ["validation loss (nats)", "MACs"]
        assert len(study["plotly_graph_objects"]) == 3
        root = address.split("/dashboard")[0]
        for trial in study["trials"]:
            assert "Trained to the end" in trial["note"]["body"]
            for artifact in trial["artifacts"]:
                name = f"{trial['study_id']}/{trial['trial_id']}/{artifact['artifact_id']}"
                assert get(f"{root}/artifacts/{name}")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
    assert "hidden-word" not in said
    assert len(list((tmp_path / "cache" / "artifacts").glob("*/*"))) == 9
    assert not (tmp_path / "runs").exists()
