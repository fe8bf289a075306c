"""ptflops' two counters: by modules and patched functions, and by ATen operators."""

from __future__ import annotations

import collections
import contextlib
import copy
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sret_nas.cost import Shape
from sret_nas.cost.formulas import Affine, Attention, Norm, layers
from sret_nas.counters.operators import operators_beyond
from sret_nas.counters.record import Count, Subject, Terms


@contextlib.contextmanager
def _left_as_found(*places: Any) -> Iterator[None]:
    """Undo every change of the attributes of modules or classes."""
    before = [dict(vars(place)) for place in places]
    try:
        yield
    finally:
        for place, old in zip(places, before, strict=True):
            for name, value in dict(vars(place)).items():
                if name not in old:
                    delattr(place, name)
                elif value is not old[name]:
                    setattr(place, name, old[name])


def _run(subject: Subject, backend: str) -> int:
    from ptflops import get_model_complexity_info

    said = io.StringIO()
    # ptflops patches functions (and forgets some) and leaves hooks: on a copy, and undone.
    with (
        _left_as_found(F, torch, torch.Tensor),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        value, _ = get_model_complexity_info(
            copy.deepcopy(subject.reference),
            tuple(subject.image.shape[1:]),
            print_per_layer_stat=False,
            as_strings=False,
            backend=backend,
            ost=said,
        )
    if value is None:
        raise RuntimeError(said.getvalue().strip().splitlines()[-1])
    return int(value)


def _bias_additions(layout: Shape) -> int:
    return sum(x.activations for x in layers(layout) if isinstance(x, Affine))


def by_aten(subject: Subject) -> Count:
    """Count by ptflops' ATen backend: the reference path."""
    value = _run(subject, "aten")
    from ptflops.aten_ops import ATEN_OPS_MAPPING

    layout = subject.shape
    return Count(
        "ptflops-aten",
        value,
        "MACs",
        "multiply-adds of convolutions and matrix products, and 1 per bias addition",
        "normalisation, softmax, activations, residual sums, pooling",
        operators_beyond(subject.reference, subject.image, ATEN_OPS_MAPPING),
        terms={} if layout is None else {"bias additions": _bias_additions(layout)},
    )


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    """Stands in for ``Tensor.matmul``: then ``@`` arrives under this name, the method not."""
    return torch.matmul(x, y)


_MULTIPLYING: dict[Any, str] = {
    _matmul: "@",
    F.scaled_dot_product_attention: "scaled_dot_product_attention",
    F.linear: "linear",
    F.bilinear: "bilinear",
    F.conv1d: "conv1d",
    F.conv2d: "conv2d",
    F.conv3d: "conv3d",
    F.conv_transpose1d: "conv_transpose1d",
    F.conv_transpose2d: "conv_transpose2d",
    F.conv_transpose3d: "conv_transpose3d",
    torch.einsum: "einsum",
    torch.tensordot: "tensordot",
    torch.mv: "mv",
    torch.addmv: "addmv",
    torch.addbmm: "addbmm",
    torch.dot: "dot",
    torch.outer: "outer",
}


class _Functions(TorchFunctionMode):
    """Calls that multiply where ptflops does not look.

    It looks at the modules that it hooks; but where one of them has others inside,
    it takes what the outer one's formula says (the products of timm's ``Attention``)
    and drops what the inner ones counted (its linear layers).
    """

    def __init__(self, model: nn.Module, hooked: Mapping[type, Any]) -> None:
        super().__init__()
        self.seen: collections.Counter[str] = collections.Counter()
        self.inside = 0
        for module in model.modules():
            if type(module) in hooked:
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self.inside += 1

    def _leave(self, *_: Any) -> None:
        self.inside -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _MULTIPLYING and self.inside != 1:
            self.seen[_MULTIPLYING[func]] += 1
        return func(*args, **(kwargs or {}))


def by_modules(subject: Subject) -> Count:
    """Count by ptflops' backend for modules: the reference path."""
    value = _run(subject, "pytorch")
    from ptflops.pytorch_ops import MODULES_MAPPING

    hooked = copy.deepcopy(subject.reference)
    with _left_as_found(Tensor), _Functions(hooked, MODULES_MAPPING) as functions:
        # ptflops sees the method but not the operator, which torch reports alike.
        setattr(Tensor, "matmul", _matmul)  # noqa: B010 (assigning to a method)
        hooked(subject.image)
    return Count(
        "ptflops-pytorch",
        value,
        "MACs",
        "multiply-adds and bias of Conv and Linear modules, 2 per BatchNorm element, 1 per "
        "LayerNorm and GELU element, 2 per ReLU module element, pooling, patched functions",
        "the @ operator, hence attention that is written with it; softmax, residual sums",
        dict(functions.seen),
        terms={} if subject.shape is None else _terms(subject.shape),
    )


def _terms(layout: Shape) -> Terms:
    rows = list(layers(layout))
    batch_norm = sum(x.elements for x in rows if isinstance(x, Norm) and x.stage == "stem")
    layer_norm = sum(x.elements for x in rows if isinstance(x, Norm) and x.stage != "stem")
    return {
        "bias additions": _bias_additions(layout),
        "BatchNorm": 2 * batch_norm,
        "LayerNorm": layer_norm,
        "ReLU": 2 * batch_norm,  # the module, and the function that it calls
        "GELU": sum(x.activations for x in rows if x.name.endswith(".fc1")),
        "attention products": -sum(x.macs for x in rows if isinstance(x, Attention)),
    }
