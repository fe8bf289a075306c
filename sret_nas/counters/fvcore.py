"""fvcore's counter, with handlers for operators that it does not know."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from sret_nas.counters.operators import free
from sret_nas.counters.record import Count, Subject


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


HANDLERS: dict[str, Callable[[list[Any], list[Any]], int]] = {
    "aten::scaled_dot_product_attention": _sdpa_macs,
    "aten::baddbmm": _product_macs(1),
    "aten::addbmm": lambda i, o: math.prod(_size(i[1])) * _size(i[2])[-1],
    "aten::addmv": _product_macs(1),
    "aten::mv": _product_macs(0),
    "aten::dot": lambda i, o: _size(i[0])[0],
}
"""Multiply-adds of operators that fvcore does not know, from traced inputs and outputs."""

PRODUCTS = {"addmm", "bmm", "conv", "einsum", "matmul", "mm", "linear"} | {
    name.removeprefix("aten::") for name in HANDLERS
}


def by_fvcore(subject: Subject) -> Count:
    """Count by ``fvcore.nn.FlopCountAnalysis``: the fused path."""
    with warnings.catch_warnings():
        # fvcore decorates functions with torch.jit.script, and traces.
        warnings.filterwarnings("ignore", message="`torch.jit")
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(subject.model, (subject.image,))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none").set_op_handle(**HANDLERS)
        value = analysis.total()
    by_operator = {name: int(n) for name, n in analysis.by_operator().items()}
    return Count(
        "fvcore",
        int(value),
        "MACs",
        "multiply-adds, and 2 per BatchNorm element, 5 per LayerNorm or GroupNorm element, "
        "1 per input element of adaptive average pooling; SDPA by a handler of ours",
        "bias, softmax, activations, residual sums",
        {k: n for k, n in sorted(analysis.unsupported_ops().items()) if not free(k)},
        terms={k: n for k, n in by_operator.items() if k not in PRODUCTS and n},
    )
