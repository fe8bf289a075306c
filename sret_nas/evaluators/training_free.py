"""Scores that train nothing: quick, of any architecture, and no substitute for a training.

On trained vision transformers none clearly orders better than the number of parameters does;
they are here to be compared with, and to spare the first look at a space.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod

import torch
from torch import Tensor, nn

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.data import DataSet
from sret_nas.device import resolve
from sret_nas.errors import EvaluationError
from sret_nas.evaluate import Evaluation, Evaluator, Report
from sret_nas.metrics import Declaration, Metric
from sret_nas.model.layers import SlicedAttention
from sret_nas.model.sret import SReT
from sret_nas.proxy import Proxy
from sret_nas.training.randomness import Random


class TrainingFree(Evaluator):
    """An evaluator of one score, in one step, on the whole architecture.

    Args:
        proxy: Not used: nothing is trained.
        data: Not used, beside what the space was fitted to.
        device: Where; default the first GPU that can be used, else the CPU.
    """

    def __init__(self, proxy: Proxy, data: DataSet, device: torch.device | None = None) -> None:
        self.device = device or resolve()

    def evaluate(
        self, arch: Architecture, *, seed: int = 0, report: Report | None = None
    ) -> Evaluation:
        """Score an architecture; there are no steps to report.

        Raises:
            EvaluationError: the score is not finite.
        """
        start = time.perf_counter()
        score = self.score(arch, seed)
        metric = self.declaration.quality
        if not math.isfinite(score):
            raise EvaluationError(f"{metric.name} is {score}")
        return Evaluation({metric.name: score}, time.perf_counter() - start)

    @abstractmethod
    def score(self, arch: Architecture, seed: int) -> float:
        """The one number."""


class ParamsEvaluator(TrainingFree):
    """The number of parameters: what every other score has to beat."""

    @property
    def declaration(self) -> Declaration:
        """More is taken to be better; its logarithm, so that charts can be read."""
        title = "logarithm of the parameters"
        return Declaration(
            metrics=(
                Metric(
                    name="log_params", title=title, short="log10 params", direction="maximize",
                    format=".3f",
                ),
            )
        )  # fmt: skip

    def score(self, arch: Architecture, seed: int) -> float:
        """To the base of ten."""
        return math.log10(cost(arch).params)


class DSSEvaluator(TrainingFree):
    """The indicator of TF-TAS: how much of a fresh network's output hangs on its weights.

    Every parameter is replaced by its absolute value, the input is all ones, and R is the sum
    of the outputs. The attention's linear layers add ‖∂R/∂W‖·‖W‖ in nuclear norms (synaptic
    diversity); patch embedding, MLPs and head add Σ|∂R/∂W ⊙ W| (synaptic saliency).

    Departs, for SReT has what TF-TAS has not: the pooling convolutions count as patch embedding
    and the non-linear projections as MLPs; weights that loops share have one gradient, the sum
    over their loops.

    Source: Training-free Transformer Architecture Search, Zhou et al., CVPR 2022; the released
    code's ``dss`` indicator.
    """

    @property
    def declaration(self) -> Declaration:
        """More is better; the seed draws the weights."""
        return Declaration(
            metrics=(
                Metric(
                    name="dss", title="DSS indicator", short="DSS", direction="maximize",
                    format=".5g",
                ),
            ),
            seeds=3,
        )  # fmt: skip

    def score(self, arch: Architecture, seed: int) -> float:
        """The sum over all layers."""
        with Random(seed, self.device):
            model = SReT(arch).to(self.device).eval()
            return dss(model, arch.in_chans, arch.image_size)


def dss(model: nn.Module, in_chans: int, image_size: int) -> float:
    """The DSS indicator of a network; its parameters are changed.

    Args:
        model: In evaluation mode.
        in_chans: Channels of its images.
        image_size: Their side in px.
    """
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.abs_()
    ones = torch.ones(1, in_chans, image_size, image_size, device=parameters[0].device)
    with torch.enable_grad():
        output: Tensor = model(ones).sum()
        output.backward()  # type: ignore[no-untyped-call]
    diverse = {
        layer
        for unit in model.modules()
        if isinstance(unit, SlicedAttention)
        for layer in (unit.qkv, unit.proj)
    }
    total = 0.0
    for layer in model.modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.weight.grad is None:
            continue
        weight, gradient = layer.weight.detach(), layer.weight.grad
        if layer in diverse:
            found = _nuclear(gradient) * _nuclear(weight)
        else:
            found = (gradient * weight).abs().sum()
        total += float(found)
    return total


def _nuclear(matrix: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(matrix.double().cpu(), "nuc")
    return norm
