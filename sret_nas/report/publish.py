"""What Optuna's dashboard shows of a run beside the trials: notes, artifacts, plots.

All of it is derived from the study and may be written again at any time. It lies
in the study's system attributes, in the form that optuna-dashboard 0.21 reads, and
in a folder of artifacts. The library's own functions for it take only trials that
still run, or read the whole study for every note; hence the keys below.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from sret_nas import files
from sret_nas.drawing import draw
from sret_nas.errors import SretNasError
from sret_nas.report import charts, notes, plots
from sret_nas.runner import Member, RunResult
from sret_nas.study.config import RunConfig
from sret_nas.study.records import confirmations, record
from sret_nas.study.rundir import RunDir, reported

CHUNK = 2045
"""Characters of one stored value: what the dashboard writes itself."""
GROWTH = 1.25
"""Plots are written again once there is so much more to show …"""
QUIET_S = 60.0
"""… or when nothing has come for so long."""
BEAT_S, SHARE = 10.0, 0.03
"""A search publishes at most so often, and for at most this share of the time."""
LAST_S = 15.0
"""At its end, a search publishes for so long; the dashboard does the rest."""
NAMESPACE = uuid.UUID("5f0a6d2e-6f2b-4c62-9d0b-7f6c1a1e9a11")
SIGNED = "[//]: # (sret-nas {})"
"""The last line of a note, not shown: whoever edits the note breaks it, and keeps the note."""


Stamp = tuple[int, int]
"""Trials that are finished, and what is known of the front beside them."""
NOTHING: Stamp = (0, 0)


class Publisher:
    """Keeps what the dashboard shows of one run up to date.

    Call it again and again while trials come; it writes what is missing or has
    changed, and nothing twice. Several may work on one study at the same time: names
    and contents are functions of the study.

    Args:
        folder: Where artifacts lie; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[int, object] = {}
        self._told, self._plotted, self._seen = NOTHING, NOTHING, NOTHING
        self._seen_at = 0.0

    def __call__(
        self, outcome: RunResult, *, final: bool = False, within_s: float = float("inf")
    ) -> bool:
        """Write what is missing or has changed.

        Args:
            outcome: The run as it is now.
            final: Whether to bring the plots up to date however little is new.
            within_s: Stop after so many seconds; the next call goes on.

        Returns:
            Whether everything is written.

        Raises:
            SretNasError: the folder or the study cannot be written.
        """
        deadline = time.monotonic() + within_s
        with reported(outcome.run.label):
            now = _stamp(outcome)
            due = self._due(now, final)
            if now == self._told and not due:
                return True
            pad = _Pad(outcome.study)
            pad.name_objectives([goal.label for goal in outcome.config.goals])
            for trial, member in _in_order(outcome):
                if self._written.get(trial.number) == _state(trial, member):
                    continue
                if time.monotonic() > deadline:
                    return False
                self._trial(pad, outcome, trial, member)
                self._written[trial.number] = _state(trial, member)
            self._told = now
            if due:
                self._study(pad, outcome)
                self._plotted = now
        return True

    def _due(self, now: Stamp, final: bool) -> bool:
        """Whether to write the plots: rarely, for each is many small values."""
        if now != self._seen:
            self._seen, self._seen_at = now, time.monotonic()
        quiet = time.monotonic() - self._seen_at > QUIET_S
        grown = now[0] >= GROWTH * self._plotted[0]
        return now != self._plotted and (final or quiet or grown)

    def _study(self, pad: _Pad, outcome: RunResult) -> None:
        for name, figure in plots.of_study(outcome).items():
            pad.plot(name, json.dumps(figure, allow_nan=False, separators=(",", ":")))
        pad.note(None, notes.of_study(outcome))

    def _trial(
        self, pad: _Pad, outcome: RunResult, trial: FrozenTrial, member: Member | None
    ) -> None:
        arch = record(trial).architecture
        contents = {
            ("drawing.svg", "image/svg+xml"): draw(arch, f"trial {trial.number}"),
            ("architecture.yaml", "text/yaml"): arch.to_yaml(),
        }
        curve = charts.curve(record(trial).curve, outcome.config.declaration, paper=True)
        if curve:
            contents["learning-curve.svg", "image/svg+xml"] = curve
        ids = {}
        for (name, kind), content in contents.items():
            text = f"{outcome.study.study_name}/{trial.number}/{name}"
            ids[name] = str(uuid.uuid5(NAMESPACE, text))
            self._file(self.folder / ids[name], content)
            pad.artifact(trial._trial_id, ids[name], name, kind)
        picture = f"/artifacts/{outcome.study._study_id}/{trial._trial_id}/{ids['drawing.svg']}"
        pad.note(trial._trial_id, notes.of_trial(outcome, trial, member, picture))

    def _file(self, path: Path, content: str) -> None:
        if path.exists() and path.read_text(encoding="utf-8") == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, content)


class Upkeep:
    """The watch of a search that publishes now and then.

    Nothing here ends a search: the first problem is kept for the end, and no more is tried.

    Args:
        run: The run directory.
        config: What was asked for.

    Attributes:
        problem: What could not be written.
    """

    def __init__(self, run: RunDir, config: RunConfig) -> None:
        self.run, self.config = run, config
        self.publisher = Publisher(run.path / "artifacts")
        self.last = time.monotonic()
        self.problem: SretNasError | None = None

    def __call__(self, study: optuna.Study) -> None:
        """Look at the study, and publish if it is time."""
        if self.problem is None and time.monotonic() - self.last > BEAT_S:
            self._publish(RunResult(self.run, self.config, study), within_s=BEAT_S * SHARE)
            self.last = time.monotonic()

    def finish(self, outcome: RunResult) -> None:
        """Publish what is left; who waits for the end does not wait long for this."""
        if self.problem is None:
            self._publish(outcome, final=True, within_s=LAST_S)

    def _publish(self, outcome: RunResult, **how: Any) -> None:
        try:
            self.publisher(outcome, **how)
        except SretNasError as problem:
            self.problem = problem


def _stamp(outcome: RunResult) -> Stamp:
    keys = outcome.study.user_attrs
    finished = sum(trial.state.is_finished() for trial in outcome.trials)
    return finished, len(list(confirmations(keys)))


def _in_order(outcome: RunResult) -> Iterator[tuple[FrozenTrial, Member | None]]:
    """Finished trials with an architecture: the front first, then the newest."""
    members = {member.trial: member for member in outcome.front}
    finished = [t for t in outcome.trials if t.state.is_finished() and record(t).has_metrics]
    for trial in sorted(finished, key=lambda t: (t.number not in members, -t.number)):
        yield trial, members.get(trial.number)


def _state(trial: FrozenTrial, member: Member | None) -> object:
    """What a trial's content depends on, beside what never changes."""
    return trial.state, member and (member.confirmation, member.metrics["latency_ms"])


class _Pad:
    """The study's system attributes, read once; only what differs is written."""

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.storage, self.id = study._storage, study._study_id
        self.stored: dict[str, Any] = self.storage.get_study_system_attrs(self.id)

    def name_objectives(self, names: list[str]) -> None:
        if self.study.metric_names != names:  # of a run by an earlier version
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names(names)

    def artifact(self, trial_id: int, artifact_id: str, name: str, kind: str) -> None:
        """What a file of a finished trial is; one that somebody has deleted stays deleted."""
        key = f"dashboard:artifacts:{trial_id}:{artifact_id}"
        if key not in self.stored:
            told = {"artifact_id": artifact_id, "filename": name, "mimetype": kind}
            self._set(key, json.dumps(told | {"encoding": None}))

    def note(self, trial_id: int | None, body: str) -> None:
        """Write a note, unless somebody has edited the one that is there."""
        prefix = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
        before = self._joined(f"{prefix}note_str:")
        text = f"{body}\n\n{SIGNED.format(_digest(body))}"
        if before == text or (before and not _ours(before)):
            return
        version = int(self.stored.get(f"{prefix}note_ver", 0)) + 1
        self._split(f"{prefix}note_str:", text)
        self._set(f"{prefix}note_ver", version)

    def plot(self, name: str, document: str) -> None:
        self._split(f"dashboard:plot_data:{name}:", document)

    def _joined(self, prefix: str) -> str:
        parts: list[str] = []
        while (part := self.stored.get(f"{prefix}{len(parts)}")) is not None:
            parts.append(part)
        return "".join(parts)

    def _split(self, prefix: str, text: str) -> None:
        number = 0
        while number * CHUNK < len(text) or f"{prefix}{number}" in self.stored:
            self._set(f"{prefix}{number}", text[number * CHUNK : (number + 1) * CHUNK])
            number += 1

    def _set(self, key: str, value: Any) -> None:
        if self.stored.get(key) != value:
            self.storage.set_study_system_attr(self.id, key, value)
            self.stored[key] = value


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def _ours(text: str) -> bool:
    body, _, signature = text.rpartition("\n\n")
    return signature == SIGNED.format(_digest(body))
