"""Teachers: trained models whose probabilities a training takes as its targets.

Both losses of distillation are linear in the targets, −Σ targets · log softmax(s / T), so
that a training needs nothing but targets:

- ``soft``, as SReT was distilled (kd_loss.py after MEAL V2, arXiv 2009.08453): softmax(t / T)
  alone. Neither labels nor a factor of T² nor a distillation token.
- ``hard``, as DeiT (arXiv 2012.12877) with both losses on one head: half the labels, half
  the teacher's likeliest class; T is 1.

Shapes: B batch, C channels, S side, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from sret_nas.data import Augment
from sret_nas.device import exact_fp32, has_dtype
from sret_nas.errors import UsageError
from sret_nas.model import SReT
from sret_nas.training.cpu import suit_to_cpu
from sret_nas.training.randomness import Random
from sret_nas.training.teacher_fit import Fit, next_step, one_line
from sret_nas.training.teacher_models import Member, open_member

Kind = Literal["soft", "hard"]
KINDS: tuple[Kind, ...] = ("soft", "hard")


def check_form(kind: str, temperature: float) -> None:
    """Refuse a form of distillation that there is not.

    Args:
        kind: ``soft`` or ``hard``.
        temperature: What logits are divided by, T.

    Raises:
        UsageError: another kind, no temperature, or one with hard targets.
    """
    if kind not in KINDS:
        raise UsageError(f"distillation: given {kind!r}; allowed: {', '.join(KINDS)}")
    if not 0 < temperature < float("inf"):
        raise UsageError(f"temperature: given {temperature}; allowed: above 0")
    if kind == "hard" and temperature != 1:
        raise UsageError(
            f"temperature: given {temperature} with hard distillation; allowed: 1",
            "a likeliest class is the same at every temperature",
        )


def blend(teacher_BK: Tensor, labels_BK: Tensor, kind: Kind) -> Tensor:
    """The targets of a form of distillation, (B, K); waits for nothing on a GPU.

    Args:
        teacher_BK: The teacher's probabilities.
        labels_BK: Class probabilities of the labels: smoothed and mixed as the recipe says.
        kind: ``soft``: the teacher's alone; ``hard``: ½ labels + ½ its likeliest class.
    """
    if kind == "soft":
        return teacher_BK
    likeliest_BK = torch.zeros_like(labels_BK).scatter_(1, teacher_BK.argmax(1, keepdim=True), 1.0)
    return (labels_BK + likeliest_BK) / 2


class Teacher:
    """One or several trained models, their probabilities averaged; nothing in them is trained.

    Args:
        members: The models, as ``open_member`` opens them.
        mean: Mean per channel by which the student's images are normalised, in 0 to 1.
        std: Their deviation per channel, on the same scale.
        device: Where the models compute.
        dtype: What products are computed in; default bf16 where the device computes in it,
            as trainings do, else fp32.

    Attributes:
        names: The models, as they were named.
        num_classes: How many classes they know, K.
        notes: What a user should know, e.g. that a position embedding was resampled.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not members:
            raise UsageError("teacher: none given; allowed: at least one")
        self.names = tuple(member.name for member in members)
        self.num_classes = members[0].num_classes
        self.notes = tuple(note for member in members for note in member.notes)
        self.device = device
        self.dtype = dtype or (torch.bfloat16 if has_dtype("bf16", device) else torch.float32)
        self.members = tuple(members)
        self._pixels = Augment(mean, std, device=device)
        own_mean, own_std = torch.tensor(mean), torch.tensor(std)
        self._affine: list[tuple[Tensor, Tensor]] = []
        for member in members:
            member.module.to(device).eval().requires_grad_(False)
            low_on_cpu = self.dtype == torch.bfloat16 and device.type == "cpu"
            if low_on_cpu and isinstance(member.module, SReT):
                suit_to_cpu(member.module)
            theirs = torch.tensor(member.std)
            scale, shift = own_std / theirs, (own_mean - torch.tensor(member.mean)) / theirs
            # Of one channel to three of a grey image's, broadcast: an exact repetition.
            self._affine.append((scale.view(-1, 1, 1).to(device), shift.view(-1, 1, 1).to(device)))

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        *,
        num_classes: int,
        image_size: int,
        in_chans: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        classes: Sequence[str] | None = None,
        data: str = "DATA",
        dtype: torch.dtype | None = None,
    ) -> Teacher:
        """Open teachers, and see that each fits the data, before anything is trained.

        A model for images of one size is made for the student's where timm can (``img_size=``:
        the position embedding is resampled), which ``notes`` say. Grey images go to a teacher of
        RGB as three equal channels; RGB images to a grey teacher have no exact meaning.

        Args:
            names: Each a timm model (weights of the hub), ``NAME=FILE`` (weights of a file), or a
                model folder: ours, or any that timm wrote. Several are averaged.
            num_classes: Classes of the data, K.
            image_size: Side of the student's images in px, S.
            in_chans: Channels of the student's images, C.
            mean: By which the student's images are normalised, per channel, in 0 to 1.
            std: Their deviation, on the same scale.
            device: Where the teachers compute.
            classes: Names of the classes of the data; a folder that knows others is refused.
            data: How the user named the data, for the next step in messages.
            dtype: As for the class.

        Raises:
            UsageError: no such model, it does not fit, or it is named otherwise.
            ConfigError: a folder or a file of weights that cannot be read.
            SretNasError: the hub does not answer.
        """
        fit = Fit(num_classes, image_size, in_chans, tuple(classes or ()), data)
        with Random(0, device):  # models are initialised before they get their weights
            members = [open_member(name, fit) for name in names]
            teacher = cls(members, mean=mean, std=std, device=device, dtype=dtype)
            teacher._try(fit)
        return teacher

    def _try(self, fit: Fit) -> None:
        """One batch through each model: what it takes is seen best by asking it."""
        x_BCSS = torch.zeros(2, fit.in_chans, fit.side, fit.side, device=self.device)
        for at, member in enumerate(self.members):
            try:
                with exact_fp32():
                    shape = tuple(self._logits(at, x_BCSS).shape)
            except (RuntimeError, ValueError, AssertionError, IndexError) as error:
                raise UsageError(
                    f"teacher {member.name}: takes no images of {fit.side} px: {one_line(error)}",
                    next_step(member.name, fit),
                ) from error
            if shape != (2, fit.num_classes):
                raise UsageError(
                    f"teacher {member.name}: its output is {shape}; allowed: (B, {fit.num_classes})"
                )

    def normalise(self, images_BCSS: Tensor) -> Tensor:
        """Images uint8 (B, C, S, S) on the device as the student's are normalised."""
        return self._pixels.normalise(images_BCSS)

    def _logits(self, at: int, x_BCSS: Tensor) -> Tensor:
        scale, shift = self._affine[at]
        low = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype, enabled=low):
            logits_BK: Tensor = self.members[at].module(torch.addcmul(shift, x_BCSS.float(), scale))
        return logits_BK.float()

    def probabilities(self, x_BCSS: Tensor, temperature: float = 1.0) -> Tensor:
        """What the teacher thinks of a batch: probabilities, float32 (B, K), without gradient.

        The batch may be mixed; nothing is waited for, so that it can be asked inside of a step.

        Args:
            x_BCSS: Images normalised as the student's, on the device.
            temperature: What logits are divided by, T.
        """
        total = self._one(0, x_BCSS, temperature)
        for at in range(1, len(self.members)):
            total = total + self._one(at, x_BCSS, temperature)
        return total / len(self.members) if len(self.members) > 1 else total

    def _one(self, at: int, x_BCSS: Tensor, temperature: float) -> Tensor:
        return torch.softmax(self._logits(at, x_BCSS) / temperature, dim=1)

    def targets(
        self, x_BCSS: Tensor, labels_BK: Tensor, kind: Kind = "soft", temperature: float = 1.0
    ) -> Tensor:
        """What the student's log softmax(s / T) is weighted with, (B, K).

        Args:
            x_BCSS: Images as the student sees them.
            labels_BK: Class probabilities of the labels, as the recipe makes them.
            kind: ``soft`` or ``hard``.
            temperature: T; 1 for ``hard``.

        Raises:
            UsageError: as ``check_form``.
        """
        check_form(kind, temperature)
        return blend(self.probabilities(x_BCSS, temperature), labels_BK, kind)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what computes the probabilities: designs, weights, normalisation.

        It is not of names and places: a folder may be moved, and an ensemble named in any order.
        """
        found = sorted(_digest(member) for member in self.members)
        return hashlib.sha256("".join(found).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """What a run writes down about its teacher, as plain data."""
        return {
            "names": list(self.names),
            "fingerprint": self.fingerprint,
            "notes": list(self.notes),
        }


def _digest(member: Member) -> str:
    parts = [member.design, repr((tuple(member.mean), tuple(member.std)))]
    digest = hashlib.sha256("\0".join(parts).encode())
    for name, value in sorted(member.module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
