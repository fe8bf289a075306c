"""What a device can compute in: fp32, bf16 and fp16, and fp32 without TF32.

torch is imported on first use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, get_args

from sret_nas.errors import UsageError

if TYPE_CHECKING:
    import torch

Dtype = Literal["fp32", "bf16", "fp16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
_TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def torch_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The type of torch by that name, where the device has arithmetic for it.

    Args:
        dtype: ``fp32``, ``bf16`` or ``fp16``.
        device: Where it is to be used.

    Raises:
        UsageError: no such type, or the device would only emulate it.
    """
    import torch

    if dtype not in _TORCH_NAMES:
        raise UsageError(f"dtype: given {dtype!r}; allowed: {', '.join(DTYPES)}")
    if not has_dtype(dtype, device):
        native = [known for known in DTYPES if has_dtype(known, device)]
        raise UsageError(
            f"{device} has no {dtype} arithmetic (it would be emulated, several times slower)",
            f"here: {', '.join(native)}",
        )
    found: torch.dtype = getattr(torch, _TORCH_NAMES[dtype])
    return found


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Within, fp32 is fp32: products and convolutions on a GPU do not use TF32.

    torch's own default is TF32 for convolutions. What was set before is set again afterwards;
    it holds for the whole process.
    """
    import torch

    cudnn: Any = torch.backends.cudnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [backend.fp32_precision for backend in backends]
    products: str | None = None
    # The older switches set the newer ones as well; torch's compiler reads the older.
    with suppress(RuntimeError):  # torch reads them no more once they contradict the newer ones
        products = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    backends[0].fp32_precision = "ieee"
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        cudnn.allow_tf32 = "tf32" in before[1:]
        for backend, precision in zip(backends, before, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


def has_dtype(dtype: str, device: torch.device) -> bool:
    """Whether the device computes in that type, rather than through another one."""
    import torch

    if dtype == "fp32":
        return True
    if device.type == "cuda":
        with torch.cuda.device(device):
            return dtype == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return True  # nobody to ask: let torch try
    supported: bool = getattr(torch.ops.mkldnn, f"_is_mkldnn_{dtype}_supported")()
    return supported
