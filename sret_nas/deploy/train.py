"""The full training of one network, from what was asked for to a model folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import nn

from sret_nas import files
from sret_nas.cost import cost
from sret_nas.counters import count
from sret_nas.data import DataSet, load_data
from sret_nas.data.folder import reads
from sret_nas.deploy import full_training
from sret_nas.deploy.card import write_card
from sret_nas.deploy.evaluation import evaluate
from sret_nas.deploy.events import with_events
from sret_nas.deploy.full_training import Progress, Watch
from sret_nas.deploy.job import JOB, Job
from sret_nas.deploy.metrics_file import METRICS, Metrics, Timed
from sret_nas.deploy.opening import open_model
from sret_nas.deploy.product import save_model
from sret_nas.deploy.subject import Subject, subject_of
from sret_nas.device import choose, cores
from sret_nas.errors import ConfigError, UsageError
from sret_nas.latency import Latency, measure
from sret_nas.model import SReT
from sret_nas.model.starting import initialise
from sret_nas.recipe import FullRecipe
from sret_nas.training.failures import is_out_of_memory
from sret_nas.training.feeding import DeviceFeed, Feed
from sret_nas.training.full import FullTrainer
from sret_nas.training.labelling import soft_labels as soft_labels_of
from sret_nas.training.pictures import PictureFeed
from sret_nas.training.processes import Processes
from sret_nas.training.randomness import Random
from sret_nas.training.soft_labels import LabelRecipe, SoftLabels
from sret_nas.training.teachers import Teacher

STORED_SCALE = (0.35, 1.0)
"""Area of stored crops where the recipe names none."""
UNSEEN = ("pad", "auto_augment", "jitter", "erasing", "repeats")
"""What would show the network other pixels than its teacher saw."""
LOCK = ".training.lock"


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        folder: The model folder.
        job: What was asked for.
        metrics: What ``metrics.json`` says.
    """

    folder: Path
    job: Job
    metrics: Mapping[str, Any]


class Training:
    """A full training, ready to be run.

    Args:
        network: A preset's name, a file, ``RUN#N``, a run (its best member), or a timm model.
        data: As ``load_data`` takes it.
        recipe: A recipe's name, a file, a mapping, or a ``FullRecipe``.
        teachers: Models to learn from, as ``Teacher.load`` names them.
        soft_labels: Crops of each image whose answers of the teachers are stored and reused.
        init: Weights to start from, as ``initialise`` takes them.
        changes: Of the recipe's fields, other values: ``epochs``, ``batch``, ``lr``, ….
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        out: The model folder; default ``models/NAME``.
        seed: Of everything that is random.
        workers: Processes that decode images; default by the device.
        processes: Those that train together.
        watch: Told how it goes.

    Attributes:
        job: What was asked for, in all that the result hangs on.
        folder: The model folder.
        subject: What is trained.
        device: Where, and why there.
        left_out: What of the recipe stored answers leave no room for.

    Raises:
        UsageError, ConfigError: it cannot be done, or the folder is another training's.
        DataError: nothing can be trained on there.
    """

    def __init__(
        self,
        network: str | Subject,
        *,
        data: str = "demo",
        recipe: FullRecipe | Mapping[str, Any] | str | Path = "short",
        teachers: Sequence[str] = (),
        soft_labels: int = 0,
        init: str | None = None,
        changes: Mapping[str, Any] | None = None,
        device: str = "auto",
        out: Path | str | None = None,
        seed: int = 0,
        workers: int | None = None,
        processes: Processes | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch or Watch()
        self.processes = processes or Processes()
        asked = FullRecipe.load(recipe)
        given = {key: value for key, value in (changes or {}).items() if value is not None}
        self.recipe = FullRecipe.load({**asked.model_dump(), **given}) if given else asked
        self.left_out: list[str] = []
        self.subject = subject_of(network) if isinstance(network, str) else network
        self.device = choose(self._own(device))
        self.place = torch.device(self.device.name)
        self.folder = Path(out) if out is not None else Path("models") / self.subject.name
        if "\0" not in data and reads(Path(data).expanduser(), self.folder):
            raise UsageError(
                f"--out: {self.folder} lies among the images of {data}, where it would be a class",
                "choose a folder beside them",
            )
        self._refuse_folder()
        if soft_labels:
            if not teachers:
                raise UsageError("--soft-labels: whose? allowed: with --teacher")
            usual = FullRecipe.model_fields
            self.left_out = [k for k in UNSEEN if getattr(self.recipe, k) != usual[k].default]
            plain = {key: usual[key].default for key in self.left_out}
            self.recipe = FullRecipe.load({**self.recipe.model_dump(), **plain})
        side = self.subject.side(self.recipe.image_size)
        self.data: DataSet = load_data(data, image_size=side, tell=self.watch.detail)
        arch = self.subject.sized(side, self.data.num_classes, self.data.in_chans)
        self.workers = workers if workers is not None else _workers(self.place)
        self._refuse_size()
        self.teacher = self._taught(teachers) if teachers else None
        self.job = Job(
            network=self.subject.source,
            architecture=arch and arch.to_dict(),
            data=self.data.describe(),
            recipe=self.recipe,
            teachers=tuple(teachers),
            teacher=self.teacher and self.teacher.fingerprint,
            soft_labels=soft_labels,
            init=init,
            seed=seed,
            processes=self.processes.count,
        ).stamped()
        earlier = Job.load(self.folder)
        if earlier is not None:
            self.job.refuse_other(earlier, self.folder)

    def _own(self, device: str) -> str:
        """The device of this process among several."""
        several_gpus = self.processes.several and device != "cpu" and torch.cuda.is_available()
        return f"cuda:{self.processes.local}" if several_gpus else device

    def _refuse_folder(self) -> None:
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder}: a file; allowed: a folder", "choose another --out")
        strange = [path.name for path in self.folder.iterdir() if path.name != LOCK]
        if strange and JOB not in strange:
            raise UsageError(
                f"{self.folder}: holds {sorted(strange)[0]} and no training of ours",
                "choose another --out",
            )

    def _taught(self, teachers: Sequence[str]) -> Teacher:
        data = self.data
        return Teacher.load(
            teachers,
            num_classes=data.num_classes,
            image_size=data.image_size,
            in_chans=data.in_chans,
            mean=data.mean,
            std=data.std,
            device=self.place,
            classes=data.classes,
            data=data.name,
        )

    @property
    def finished(self) -> bool:
        """Whether the folder holds the trained model already."""
        return Job.load(self.folder) is not None and (self.folder / METRICS).is_file()

    def run(self) -> Trained:
        """Train, or go on; validate, read the test images once, write the model folder.

        Raises:
            KeyboardInterrupt: as asked; the same training goes on from there.
            TrainingError: it cannot be trained.
            UsageError: another process trains in this folder.
        """
        if self.finished:
            self.watch.say(f"{self.folder} is trained already")
            return self._trained()
        with self._alone():
            progress = self._train()
            if self.processes.first:
                self._deliver(progress)
            self.processes.wait()
        return self._trained()

    def _refuse_size(self) -> None:
        """One step's images through a model of timm's: what it takes is seen best by asking it.

        Raises:
            UsageError: it takes no images of this size.
        """
        if self.subject.arch is not None:
            return
        data, recipe = self.data, self.recipe
        what = f"timm model '{self.subject.source}' at {data.image_size} px"
        images = max(1, min(2, min(recipe.batch, len(data.train)) // recipe.accumulate))
        x_BCSS = torch.rand(images, data.in_chans, data.image_size, data.image_size)
        with Random(0, torch.device("cpu")), torch.no_grad():
            model = self._blank()
            try:
                model.train()(x_BCSS)
            except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
                if is_out_of_memory(error):
                    return
                text = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise UsageError(f"{what}: {text}", "another --image-size") from error

    def _train(self) -> Progress:
        trainer = self._trainer()
        if not self.processes.first:
            return full_training.run(trainer, self.folder, self.watch, processes=self.processes)
        with with_events(self.watch, self.folder) as watch:
            return full_training.run(trainer, self.folder, watch, processes=self.processes)

    def _trained(self) -> Trained:
        job, path = Job.load(self.folder), self.folder / METRICS
        assert job is not None
        found = Metrics.load(self.folder)
        if found is None or found.validation is None or found.cost is None:
            raise ConfigError(
                f"{path}: does not say what the model is worth and costs",
                "remove it: the same train command writes it anew",
            )
        return Trained(self.folder, job, json.loads(path.read_text(encoding="utf-8")))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Write down what is asked for, and keep others from the folder."""
        if not self.processes.first:
            yield
            return
        made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UsageError(
                f"{self.folder}: another process is training there", "wait for it, or another --out"
            ) from error
        try:
            if Job.load(self.folder) is None:
                self.job.save(self.folder)
            yield
        except BaseException:
            self._forget()
            raise
        finally:
            with contextlib.suppress(OSError):  # where an open file cannot go
                (self.folder / LOCK).unlink(missing_ok=True)
            lock.release()
            if made:
                with contextlib.suppress(OSError):  # it holds something
                    self.folder.rmdir()

    def _forget(self) -> None:
        """Of a training that failed before its first state, nothing is there to go on from."""
        states = self.folder / full_training.CHECKPOINTS
        if not any(states.glob("*.pt")) and not (self.folder / METRICS).exists():
            with contextlib.suppress(OSError):
                states.rmdir()
            (self.folder / JOB).unlink(missing_ok=True)

    def _trainer(self) -> FullTrainer:
        data, recipe, seed = self.data, self.recipe, self.job.seed
        share = (self.processes.rank, self.processes.count)
        order, augment, blend = (
            int(s) for s in np.random.SeedSequence((seed, 1)).generate_state(3)
        )
        answers = self._answers() if self.job.soft_labels else None
        self._introduce_teacher()
        feed: Feed
        if recipe.on_pictures or answers:
            feed = PictureFeed(
                data,
                recipe,
                self.place,
                blend,
                workers=self.workers,
                share=share,
                answers=answers,
            )
        else:
            feed = DeviceFeed(data, recipe, self.place, (order, augment), share)
        return FullTrainer(
            self._network,
            data,
            recipe,
            feed,
            seed=seed,
            device=self.place,
            teacher=None if answers else self.teacher,
            temperature=self._temperature,
            processes=self.processes,
        )

    @property
    def _temperature(self) -> float:
        soft = self.teacher is not None and self.recipe.distill == "soft"
        return self.recipe.temperature if soft else 1.0

    def _introduce_teacher(self) -> None:
        """Say how good the teacher is: a poor one is better known before than after."""
        if self.teacher is None or not self.processes.first:
            return
        right = 0
        for images_BCSS, labels_B in self.data.val.batches(256, self.place):
            found_BK = self.teacher.probabilities(self.teacher.normalise(images_BCSS))
            right += int((found_BK.argmax(1) == labels_B).sum())
        share = right / len(self.data.val)
        self.watch.say(
            f"teacher {', '.join(self.teacher.names)}: {share:.1%} of the validation images right"
        )

    def _answers(self) -> SoftLabels:
        """The teachers' stored answers; the first process asks for those that are not there."""
        assert self.teacher is not None
        if not self.processes.first:
            self.processes.wait()
        wanted = LabelRecipe(
            self.data.image_size,
            self.job.soft_labels,
            scale=self.recipe.scale or STORED_SCALE,
            flip=self.recipe.flip and self.data.mirror,
            temperature=self._temperature,
        )
        found = soft_labels_of(
            self.data.train,
            self.teacher,
            wanted,
            progress=lambda done, total: self.watch.detail(
                f"asking the teachers: {done:,} of {total:,} crops"
            ),
        )
        if self.processes.first:
            self.processes.wait()
        self.watch.say(
            f"labels  {found.images:,} images, {wanted.crops} crops each, "
            f"{found.computed:,} of them new, {found.bytes / 1e6:,.1f} MB in {found.file.folder}"
        )
        return found

    def _blank(self) -> nn.Module:
        data = self.data
        return self.subject.build(
            data.image_size, data.num_classes, data.in_chans, self.recipe.drop_path
        )

    def _network(self) -> nn.Module:
        model = self._blank()
        if self.job.init is not None:
            self.watch.say(initialise(model, self.job.init, classes=self.data.classes))
        return model

    def _deliver(self, progress: Progress) -> None:
        """Write the model folder: weights that validated best, then what they are worth."""
        model = self._blank()
        model.load_state_dict(progress.weights)
        save_model(model, self.folder, self.data, self.subject.source)
        opened = open_model(self.folder, device=self.device.name)
        self.watch.say("validating the model as it was saved")
        val = evaluate(opened, [self.data.val], self.data.classes, tell=self.watch.detail)
        test = None
        if self.data.has_test:
            self.watch.say("reading the test images, once")
            test = evaluate(opened, [self.data.test()], self.data.classes, tell=self.watch.detail)
        best = progress.rows[progress.best - 1]
        measured = measure({"model": opened.module or model}, device=self.device.name, seconds=10)
        found = {
            "schema": 1,
            "epoch": best.epoch,
            "epochs": len(progress.rows),
            "seconds": progress.seconds,
            "device": str(self.device),
            "cost": self._cost(model),
            "validation": val.scores.to_dict(),
            "test": test and test.scores.to_dict(),
            "latency": [
                Timed.of(one).model_dump(mode="json")
                for one in measured.values()
                if isinstance(one, Latency)
            ],
        }
        files.write(self.folder / METRICS, json.dumps(found, indent=1, allow_nan=False) + "\n")
        write_card(self.folder)

    def _cost(self, model: nn.Module) -> dict[str, int | None]:
        """What an image costs: by the formula, or of timm's models by torch's dispatcher."""
        if isinstance(model, SReT):
            found = cost(model.arch)
            return {"params": found.params, "macs": found.macs, "peak_bytes": found.peak_bytes}
        side = self.data.image_size
        counted = count(model, ["torch"], (self.data.in_chans, side, side))["torch"]
        params = sum(parameter.numel() for parameter in model.parameters())
        return {"params": params, "macs": counted.value, "peak_bytes": None}


def _workers(device: torch.device) -> int:
    """Processes that decode: all cores but one beside a GPU; one beside a CPU that trains."""
    return max(1, min(16, cores() - 1)) if device.type == "cuda" else 1


def train(network: str, **options: Any) -> Trained:
    """Train one network in full and write a model folder: what ``sret-nas train`` does.

    The same call goes on with a training that was interrupted.

    Args:
        network: A preset's name, a file, ``RUN#N``, a run (its best member), or a timm model.
        options: Keywords of ``Training``: ``data``, ``recipe``, ``teachers``, ``init``,
            ``changes``, ``device``, ``out``, ``seed``, ….

    Example:
        >>> found = train("runs/demo#7", data="./images", out="models/demo")  # doctest: +SKIP
        >>> found.metrics["test"]["top1"]  # doctest: +SKIP

    Raises:
        UsageError, ConfigError: it cannot be done, or the folder is another training's.
        DataError: nothing can be trained on there.
        TrainingError: it cannot be trained.
    """
    return Training(network, **options).run()
