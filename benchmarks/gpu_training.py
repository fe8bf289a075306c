"""Training throughput at the ``standard`` scale: ours, ours eager, the published code, timm.

Whole epochs, in turn, images on the device, bf16 autocast. The plain loops of the published
code and of the timm model only normalise: no augmentation, no validation, which favours them.
The timm model is a ViT of as many MACs at the same image size, by its depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import gpu_kernels
import timm
import torch
import torch.nn.functional as F
from gpu_bench import Bench, Row, spread
from published import Published
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sret_nas.arch import Architecture
from sret_nas.cost import cost
from sret_nas.data import DataSet
from sret_nas.device import has_dtype
from sret_nas.proxy import Proxy
from sret_nas.training import Trainer

LARGE = 1024
VIT = "deit_tiny_patch16_224"
HEAD_START_S = 5.0
"""Of the section's time, for what comes after the measuring."""


@dataclass
class Arm:
    """One way to train.

    Attributes:
        what: In words.
        batch: Images per step.
        macs: Of the model, forward, one image.
        epoch: Trains once through the images; how many there were.
        note: What to know of it, asked after its first epochs.
    """

    what: str
    batch: int
    macs: int
    epoch: Callable[[], int]
    note: Callable[[], str | None] = lambda: None


def rows(bench: Bench) -> Iterator[Row]:
    proxy = bench.proxy()
    data = bench.load(proxy)
    arch = proxy.apply(Architecture.load("sret_t"), data)
    batches = [proxy.batch] if bench.reduced else sorted({proxy.batch, LARGE})
    makers: list[tuple[str, int, Callable[[str, int], Arm]]] = [
        *(("ours", size, partial(ours, bench, arch, data, proxy)) for size in batches),
        ("ours, eager", proxy.batch, partial(ours, bench, arch, data, proxy, graphs=False)),
        ("published", proxy.batch, lambda *x: plainly(bench, Published(arch), arch, data, *x)),
        ("timm", proxy.batch, lambda *x: plainly(bench, vit(arch), arch, data, *x)),
    ]
    arms: dict[str, Arm] = {}
    for what, batch, make in makers:
        try:
            arm = make(what, batch)
            for _ in range(2):  # the second is recorded by then, where steps are
                arm.epoch()
        except Exception as error:  # one that fails leaves the others
            yield {"what": what, "batch": batch, "failed": first_line(error)}
            continue
        arms[f"{what} {batch}"] = arm
    measuring_s = 0.2 if bench.reduced else max(5.0, bench.left_s() - HEAD_START_S * len(arms))
    images = {name: arm.epoch() for name, arm in arms.items()}
    taken = bench.interleaved({name: arm.epoch for name, arm in arms.items()}, measuring_s)
    for name, arm in arms.items():
        speeds = [images[name] / seconds for seconds in taken[name]]
        steps = max(1, images[name] // arm.batch)
        work = gpu_kernels.watch(bench, arm.epoch)
        yield {
            "what": arm.what,
            "batch": arm.batch,
            "macs": arm.macs,
            "images_per_s": spread(speeds),
            "step_ms": 1e3 * arm.batch / spread(speeds)["median"],
            "kernels_per_step": work.kernels / steps,
            "kernels_ms_per_step": 1e3 * work.busy_s / steps,
            "busy": work.share if bench.cuda else None,
            "epochs": len(speeds),
            "note": arm.note(),
        }


def ours(
    bench: Bench,
    arch: Architecture,
    data: DataSet,
    proxy: Proxy,
    what: str,
    batch: int,
    graphs: bool = True,
) -> Arm:
    """Our trainer."""
    recipe = proxy.model_copy(update={"batch": batch})
    trainer = Trainer(arch, data, recipe, device=bench.place, graphs=graphs)
    return Arm(
        what,
        batch,
        cost(arch).macs,
        lambda: trainer.train_epoch()[1],
        lambda: recorded(trainer),
    )


def recorded(trainer: Trainer) -> str | None:
    """How long the recording of a step took, or why there is none."""
    if trainer.training.recording_s is None:
        return trainer.why_eager
    return f"step recorded in {trainer.training.recording_s:.2f} s"


def vit(arch: Architecture) -> nn.Module:
    """A ViT whose depth brings it to the MACs of the architecture."""
    options = {
        "img_size": arch.image_size,
        "patch_size": max(1, arch.image_size // 8),
        "num_classes": arch.num_classes,
        "in_chans": arch.in_chans,
    }
    one, two = (macs(timm.create_model(VIT, depth=depth, **options), arch) for depth in (1, 2))
    depth = max(1, round((cost(arch).macs - one) / (two - one)) + 1)
    model: nn.Module = timm.create_model(VIT, depth=depth, **options)
    return model


def macs(model: nn.Module, arch: Architecture) -> int:
    """Multiply-adds of one image, as torch counts them."""
    image = torch.zeros(1, arch.in_chans, arch.image_size, arch.image_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2


def plainly(
    bench: Bench, model: nn.Module, arch: Architecture, data: DataSet, what: str, batch: int
) -> Arm:
    """A plain loop: normalise, forward, backward, clip, AdamW."""
    counted = macs(model, arch)
    model = model.to(bench.place).train()
    ((images, labels),) = data.train.batches(len(data.train), bench.place)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    mean, std = (
        255 * torch.tensor(values, device=bench.place).view(-1, 1, 1)
        for values in (data.mean, data.std)
    )
    bf16 = has_dtype("bf16", bench.place)
    batch = min(batch, len(labels))

    def epoch() -> int:
        order = torch.randperm(len(labels), device=bench.place)
        loss = torch.zeros((), device=bench.place)
        for at in order[: len(order) // batch * batch].split(batch):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(bench.place.type, torch.bfloat16, enabled=bf16):
                logits = model((images[at].float() - mean) / std)
            loss = F.cross_entropy(logits.float(), labels[at], label_smoothing=0.1)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
            optimizer.step()
        loss.item()
        return len(order) // batch * batch

    return Arm(what, batch, counted, epoch)


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
