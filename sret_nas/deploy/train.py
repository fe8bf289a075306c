"""The full training of one network, from what was asked for to a model folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sret_nas.data import DataSet, load_data
from sret_nas.deploy import full_training
from sret_nas.deploy.delivery import deliver
from sret_nas.deploy.events import with_events
from sret_nas.deploy.full_training import Progress, Watch
from sret_nas.deploy.job import Job
from sret_nas.deploy.metrics_file import METRICS, Metrics
from sret_nas.deploy.place import alone, finished, refuse_folder
from sret_nas.deploy.subject import Subject, subject_of
from sret_nas.device import choose, cores
from sret_nas.errors import ConfigError, UsageError
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
        refuse_folder(self.folder, data)
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
        return finished(self.folder)

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
        first = self.processes.first
        with alone(self.folder, self.job) if first else contextlib.nullcontext():
            progress = self._train()
            if first:
                deliver(
                    self._blank(),
                    self.subject.source,
                    progress,
                    self.data,
                    self.folder,
                    self.device,
                    self.watch,
                )
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
            return full_training.run(trainer, self.folder, self.watch)
        with with_events(self.watch, self.folder) as watch:
            return full_training.run(trainer, self.folder, watch)

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
