"""The same numbers by other people's counters, side by side and explained.

Every counter runs on a private copy of the model, in eval mode and on the CPU,
for one image. What a counter meets and cannot count is named beside its number:
unknown is not zero. Where the analytic number exists, the difference from it is
split into terms that add up to the unit.

Requires torch, fvcore and ptflops.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sret_nas.arch import Architecture
from sret_nas.cost import Shape, macs, shape
from sret_nas.cost.formulas import Affine, Attention, Norm, layers
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
        """What stands beside the number: gaps first, then the difference."""
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
class _Subject:
    """What is counted: the model as it is, its reference path, and its numbers."""

    model: nn.Module
    reference: nn.Module
    image: Tensor
    shape: Shape | None


def count(
    model: nn.Module | Architecture,
    counters: Sequence[str] | None = None,
    input_size: tuple[int, int, int] | None = None,
) -> dict[str, Count]:
    """What the counters say of a model, by name.

    Args:
        model: An architecture, or any module that maps images to a result. A
            module of timm's is switched to plain matrix products where a counter
            needs them.
        counters: Names from ``COUNTERS``; default all.
        input_size: Channels, height and width of an image; default what the
            architecture, or timm's configuration of the model, says.

    Example:
        >>> from sret_nas.zoo import PUBLISHED
        >>> count(PUBLISHED["sret_t"], ["torch"])["torch"].note
        'equals the analytic count'

    Raises:
        UsageError: an unknown counter, or no input size is known.
    """
    names = list(COUNTERS) if counters is None else list(counters)
    for name in names:
        if name not in COUNTERS:
            raise UsageError(f"counter: given '{name}'; allowed: {', '.join(COUNTERS)}")
    subject = _subject(model, input_size)
    analytic = None if subject.shape is None else int(macs(subject.shape))
    found = {}
    for name in names:
        # The generator of the process is left as it was, whatever a model draws.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                result = COUNTERS[name](subject)
            except Exception as error:  # others' code on any model: its failure is the result
                lines = str(error).splitlines()
                result = Count(
                    name, None, "MACs", "", "", failure=lines[0] if lines else repr(error)
                )
        found[name] = replace(result, analytic=analytic)
    return found


def _subject(model: nn.Module | Architecture, input_size: tuple[int, int, int] | None) -> _Subject:
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
    return _Subject(
        model=model,
        reference=reference,
        image=torch.zeros(1, *input_size),
        shape=shape(model.arch) if isinstance(model, SReT) else None,
    )


# Operators without a multiply-add by the convention of this project: they move, compare,
# normalise, pool or draw. Pointwise, reducing and view operators say so themselves, by tag.
FREE = frozenset(
    """
    _assert_async _local_scalar_dense _native_batch_norm_legit
    _native_batch_norm_legit_no_training _softmax _log_softmax _to_copy _unsafe_view
    adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d arange
    argmax argsort as_strided avg_pool1d avg_pool2d batch_norm bernoulli cat clone constant_pad_nd
    contiguous copy cudnn_batch_norm cumsum dropout empty empty_like empty_strided
    feature_dropout fill flip full full_like gather grid_sampler grid_sampler_2d group_norm
    index index_put index_select instance_norm layer_norm lift_fresh linspace log_softmax
    max_pool2d max_pool2d_with_indices meshgrid native_batch_norm native_dropout
    native_group_norm native_layer_norm new_empty new_full new_ones new_zeros nonzero ones
    ones_like pad pixel_shuffle pixel_unshuffle rand randn randperm reflection_pad2d
    repeat repeat_interleave reshape resize rms_norm _fused_rms_norm roll scalar_tensor scatter
    softmax sort split stack sum_to_size topk tril triu unfold upsample_bicubic2d
    upsample_bilinear2d upsample_nearest2d zero zeros zeros_like
    """.split()  # noqa: SIM905 (a list of so many strings is harder to read)
)


def _free(name: str) -> bool:
    """Whether an ATen operator has no multiply-add to count."""
    name = name.removeprefix("aten::")
    if name in FREE or name.removesuffix("_") in FREE:
        return True
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    free_tags = {torch.Tag.pointwise, torch.Tag.reduction}
    return any(op.is_view or free_tags & set(op.tags) for op in overloads)


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every ATen operator that runs, and how often."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: collections.Counter[Any] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


def _operators_beyond(model: nn.Module, image: Tensor, known: Mapping[Any, Any]) -> Terms:
    """Operators of a forward pass that are neither known to a counter nor free."""
    with _Operators() as operators:
        model(image)
    return {
        f"aten::{packet.__name__}": times
        for packet, times in operators.seen.items()
        if packet not in known and not _free(packet.__name__)
    }


def _torch(subject: _Subject) -> Count:
    with FlopCounterMode(display=False) as counter:
        subject.model(subject.image)
    return Count(
        "torch",
        counter.get_total_flops(),
        "FLOPs",
        "2 FLOPs per multiply-add of convolutions, matrix products and SDPA",
        "bias, normalisation, softmax, activations, residual sums, pooling",
        _operators_beyond(subject.model, subject.image, flop_registry),
    )


def _size(value: Any) -> list[int]:
    return list(value.type().sizes())


def _sdpa_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Queries (…, L, E), keys (…, S, E), values (…, S, V)."""
    query, key, value = (_size(x) for x in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _product_macs(first: int) -> Callable[[list[Any], list[Any]], int]:
    """A matrix product whose left factor is the input of that index."""

    def handle(inputs: list[Any], outputs: list[Any]) -> int:
        return math.prod(_size(outputs[0])) * _size(inputs[first])[-1]

    return handle


FVCORE_HANDLERS: dict[str, Callable[[list[Any], list[Any]], int]] = {
    "aten::scaled_dot_product_attention": _sdpa_macs,
    "aten::baddbmm": _product_macs(1),
    "aten::addbmm": lambda i, o: math.prod(_size(i[1])) * _size(i[2])[-1],
    "aten::addmv": _product_macs(1),
    "aten::mv": _product_macs(0),
    "aten::dot": lambda i, o: _size(i[0])[0],
}
"""Multiply-adds of operators that fvcore does not know, from traced inputs and outputs."""

_FVCORE_PRODUCTS = {"addmm", "bmm", "conv", "einsum", "matmul", "mm", "linear"} | {
    name.removeprefix("aten::") for name in FVCORE_HANDLERS
}


def _fvcore(subject: _Subject) -> Count:
    with warnings.catch_warnings():
        # fvcore decorates functions with torch.jit.script, and traces.
        warnings.filterwarnings("ignore", message="`torch.jit")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(subject.model, (subject.image,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none").set_op_handle(**FVCORE_HANDLERS)
        value = analysis.total()
    by_operator = {name: int(n) for name, n in analysis.by_operator().items()}
    return Count(
        "fvcore",
        int(value),
        "MACs",
        "multiply-adds, and 2 per BatchNorm element, 5 per LayerNorm or GroupNorm element, "
        "1 per input element of adaptive average pooling; SDPA by a handler of ours",
        "bias, softmax, activations, residual sums",
        {k: n for k, n in sorted(analysis.unsupported_ops().items()) if not _free(k)},
        terms={k: n for k, n in by_operator.items() if k not in _FVCORE_PRODUCTS and n},
    )


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


def _run_ptflops(subject: _Subject, backend: str) -> int:
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


def _ptflops_aten(subject: _Subject) -> Count:
    value = _run_ptflops(subject, "aten")
    from ptflops.aten_ops import ATEN_OPS_MAPPING

    layout = subject.shape
    return Count(
        "ptflops-aten",
        value,
        "MACs",
        "multiply-adds of convolutions and matrix products, and 1 per bias addition",
        "normalisation, softmax, activations, residual sums, pooling",
        _operators_beyond(subject.reference, subject.image, ATEN_OPS_MAPPING),
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


def _ptflops_pytorch(subject: _Subject) -> Count:
    value = _run_ptflops(subject, "pytorch")
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
        terms={} if subject.shape is None else _ptflops_pytorch_terms(subject.shape),
    )


def _ptflops_pytorch_terms(layout: Shape) -> Terms:
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


COUNTERS: dict[str, Callable[[_Subject], Count]] = {
    "torch": _torch,
    "fvcore": _fvcore,
    "ptflops-pytorch": _ptflops_pytorch,
    "ptflops-aten": _ptflops_aten,
}
"""The counters by name; torch and fvcore count the fused path, ptflops the reference path."""
