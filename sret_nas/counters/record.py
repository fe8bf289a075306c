"""What one counter says, and what it is asked about."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.cost import Shape, shape
from sret_nas.errors import UsageError
from sret_nas.model import SReT, create_model

Terms = Mapping[str, int]


@dataclass(frozen=True)
class Count:
    """What one counter says.

    Attributes:
        name: The counter.
        value: Its number in ``unit``; ``None`` where it failed.
        unit: ``MACs`` or ``FLOPs`` (1 MAC = 2 FLOPs).
        convention: What the counter counts.
        leaves_out: What it leaves out by design.
        uncounted: Operators that it met and cannot count, and how often.
        analytic: The analytic MACs; ``None`` where there is no formula.
        terms: What it counts beyond MACs (or misses, negative), in its unit.
        failure: Why there is no value, or empty.
    """

    name: str
    value: int | None
    unit: Literal["MACs", "FLOPs"]
    convention: str
    leaves_out: str
    uncounted: Terms = field(default_factory=dict)
    analytic: int | None = None
    terms: Terms = field(default_factory=dict)
    failure: str = ""

    @property
    def macs(self) -> int | None:
        """The value in MACs; ``None`` where it failed."""
        if self.value is None or self.unit == "MACs":
            return self.value
        return self.value // 2

    @property
    def difference(self) -> int | None:
        """The value less the analytic count, in the counter's unit."""
        if self.value is None or self.analytic is None:
            return None
        return self.value - self.analytic * (2 if self.unit == "FLOPs" else 1)

    @property
    def unexplained(self) -> int | None:
        """What is left of the difference after its terms; 0 where all is explained."""
        return None if self.difference is None else self.difference - sum(self.terms.values())

    @property
    def note(self) -> str:
        """What stands beside the number, in words: what was not counted, then the difference."""
        if self.value is None:
            return f"failed: {self.failure}"
        words = []
        if self.uncounted:
            words.append(
                "did not count " + ", ".join(f"{k} ×{n}" for k, n in self.uncounted.items())
            )
        terms = ", ".join(f"{name} {value:+,}" for name, value in self.terms.items())
        if self.difference == 0:
            words.append("equals the analytic count")
        elif self.difference is not None:
            rest = f", unexplained {self.unexplained:+,}" if self.unexplained else ""
            words.append(f"analytic {self.difference:+,}: {terms}{rest}".replace(": ,", ":"))
        elif terms:
            words.append(f"of this {terms}")
        return "; ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the value under ``macs`` or ``flops``, and what explains it."""
        return {
            self.unit.lower(): self.value,
            "unit": self.unit,
            "convention": self.convention,
            "note": self.note,
            "leaves_out": self.leaves_out,
            "uncounted": dict(self.uncounted),
            "difference": self.difference,
            "terms": dict(self.terms),
            "unexplained": self.unexplained,
        }


@dataclass(frozen=True)
class Subject:
    """What is counted: a model twice, an image for it and, of our own, its architecture's numbers.

    Attributes:
        model: A copy of the model, in eval mode on the CPU.
        reference: Another copy, with attention by plain matrix products where it has the switch.
        image: One image of zeros, (1, C, H, W).
        shape: The numbers of its architecture; ``None`` for any other model.
    """

    model: nn.Module
    reference: nn.Module
    image: Tensor
    shape: Shape | None

    @classmethod
    def of(
        cls, model: nn.Module | Architecture, input_size: tuple[int, int, int] | None
    ) -> Subject:
        """Make private copies of a model, so that nothing of it is changed by counting.

        Args:
            model: A model, or an architecture, which is built.
            input_size: Channels, height and width of an image; ``None`` asks the model.

        Raises:
            UsageError: no input size is known.
        """
        if isinstance(model, Architecture):
            model = create_model(model)
        if isinstance(model, SReT):
            arch = model.arch
            input_size = (arch.in_chans, arch.image_size, arch.image_size)
        if input_size is None:
            config = getattr(model, "pretrained_cfg", None) or {}
            if "input_size" not in config:
                raise UsageError(
                    f"counters: {type(model).__name__} does not say how large its images are",
                    "give input_size=(channels, height, width)",
                )
            input_size = tuple(config["input_size"])
        model = copy.deepcopy(model).to("cpu").eval().requires_grad_(False)
        reference = copy.deepcopy(model)
        for module in reference.modules():
            if isinstance(module, SReT):
                module.set_fused_attn(False)
            elif hasattr(module, "fused_attn"):  # timm's switch
                setattr(module, "fused_attn", False)  # noqa: B010 (not an attribute of every module)
        return cls(
            model=model,
            reference=reference,
            image=torch.zeros(1, *input_size),
            shape=shape(model.arch) if isinstance(model, SReT) else None,
        )
