"""Training speed of the whole machine, beside a plain PyTorch loop.

    python benchmarks/training.py --official PATH

Ours: the ``fast`` proxy at its default workers, one process per core with one
thread each, each training its own network. The baseline: the published model code
(``SReT.py`` in PATH, a checkout of szq0214/SReT), fp32, in one process with all
cores, images from a DataLoader with the same augmentation by torchvision; with and
without loader workers, and the faster counts. Both train the same architecture
with the same batch, interleaved in rounds; a round is counted in training images.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import platform
import statistics
import sys
import time
import types
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sret_nas.arch import Architecture
from sret_nas.data import DataSet, load_data
from sret_nas.device import cores, fingerprint
from sret_nas.model import create_model
from sret_nas.proxy import PRESETS
from sret_nas.training import Trainer
from sret_nas.zoo import PUBLISHED

PROXY = PRESETS["fast"]
ARCH = "sret_t"
RESULTS = Path(__file__).parent / "results"


def images(count: int) -> DataSet:
    data = load_data(**PROXY.load_options())
    return replace(data, train=data.train.first(count))


def ours(pipe: Connection, count: int) -> None:
    """A worker of a search: one thread, one training."""
    torch.set_num_threads(1)
    data = images(count)
    trainer = Trainer(PROXY.apply(PUBLISHED[ARCH], data), data, PROXY)
    serve(pipe, trainer.train_epoch)


def plain(pipe: Connection, count: int, path: str, workers: int) -> None:
    """The published model in the loop that everybody writes."""
    torch.set_num_threads(cores())
    data = images(count)
    arch = PROXY.apply(PUBLISHED[ARCH], data)
    model = official_model(Path(path), arch)
    theirs, mine = (sum(p.numel() for p in m.parameters()) for m in (model, create_model(arch)))
    if theirs != mine:
        raise SystemExit(f"not the same architecture: {theirs:,} and {mine:,} parameters")
    loader = DataLoader(
        Pictures(data),
        PROXY.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=PROXY.lr, weight_decay=PROXY.weight_decay)
    criterion = nn.CrossEntropyLoss(label_smoothing=PROXY.label_smoothing)

    def epoch() -> None:
        model.train()
        for x, target in loader:
            loss = criterion(model(x), target)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), PROXY.clip)
            optimizer.step()

    serve(pipe, epoch)


def serve(pipe: Connection, epoch: Any) -> None:
    """Run an epoch whenever asked; the first, unasked, warms up."""
    epoch()
    pipe.send("ready")
    while pipe.recv():
        epoch()
        pipe.send("done")


class Pictures(Dataset[tuple[Tensor, int]]):
    """The same images, augmented one by one by torchvision."""

    def __init__(self, data: DataSet) -> None:
        from torchvision import transforms
        from torchvision.transforms.functional import to_pil_image

        ((pixels, labels),) = data.train.batches(len(data.train), torch.device("cpu"))
        self.images = [to_pil_image(image) for image in pixels]
        self.labels = labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(PROXY.image_size, padding=PROXY.pad),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def official_model(checkout: Path, arch: Architecture) -> nn.Module:
    """The published code at the proxy's scale, from a checkout that stays as it is.

    The published stem always has stride 8; here its last stride becomes that of
    ``arch``, so that both have the same number of tokens.
    """
    from timm import layers

    def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
        """The two patterns that the published code uses, where einops is missing."""
        if pattern == "b c h w -> b (h w) c":
            return x.flatten(2).transpose(1, 2)
        if pattern == "b (h w) c -> b c h w":
            return x.transpose(1, 2).reshape(len(x), -1, sizes["h"], sizes["w"])
        raise ValueError(pattern)

    stand_ins = {
        "timm.models.layers": layers,  # where the published code looks for what moved
        "timm.models.registry": types.SimpleNamespace(register_model=lambda f: f),
    }
    if importlib.util.find_spec("einops") is None:
        stand_ins["einops"] = types.SimpleNamespace(rearrange=rearrange)
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("official_sret", checkout / "SReT.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{checkout}: no SReT.py there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stages = arch.stages
    model = module.SReT(
        image_size=8 * arch.sides[0],
        patch_size=16,
        stride=8,
        base_dims=[stage.head_dim for stage in stages],
        depth=[stage.depth for stage in stages],
        recursive_num=[stage.blocks for stage in stages],
        groups1=[stage.groups[0] for stage in stages],
        groups2=[stage.groups[1] for stage in stages],
        heads=[stage.heads for stage in stages],
        mlp_ratio=stages[0].mlp_ratio,
        np_mlp_ratio=stages[0].nll_ratio,
        num_classes=arch.num_classes,
        in_chans=arch.in_chans,
    )
    halvings = arch.stem_stride.bit_length() - 1
    for i, conv in enumerate(("conv1", "conv2", "conv3")):
        getattr(model.patch_embed, conv).stride = (2, 2) if i < halvings else (1, 1)
    return model


def start(target: Any, *args: Any) -> tuple[Any, Connection]:
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(there, *args))
    process.start()
    there.close()
    return process, here


def seconds(team: list[tuple[Any, Connection]]) -> float:
    """One epoch of every process of a team, side by side."""
    begin = time.perf_counter()
    for _, pipe in team:
        pipe.send(True)
    for _, pipe in team:
        pipe.recv()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--official", type=Path, required=True, help="checkout of szq0214/SReT")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=2560, help="per process and round")
    parser.add_argument("--out", type=Path, default=RESULTS / "training-cpu.json")
    options = parser.parse_args()
    if not (options.official / "SReT.py").is_file():
        parser.error(f"{options.official}: no SReT.py there")

    count, workers, path = options.images, cores(), str(options.official)
    teams = {
        f"sret_nas, {workers} processes, bf16": [start(ours, count) for _ in range(workers)],
        "plain loop, no loader workers, fp32": [start(plain, count, path, 0)],
        f"plain loop, {workers} loader workers, fp32": [start(plain, count, path, workers)],
    }
    for team in teams.values():
        for _, pipe in team:
            pipe.recv()
    speeds: dict[str, list[float]] = {name: [] for name in teams}
    for _ in range(options.rounds):
        for name, team in teams.items():
            speeds[name].append(len(team) * count / seconds(team))
    for team in teams.values():
        for process, pipe in team:
            pipe.send(False)
            process.join()

    median = {name: statistics.median(values) for name, values in speeds.items()}
    mine, *others = median
    baseline = max(others, key=lambda name: median[name])
    ratios = [a / b for a, b in zip(speeds[mine], speeds[baseline], strict=True)]
    for name in teams:
        low, high = min(speeds[name]), max(speeds[name])
        print(f"{name:45} {median[name]:7.0f} images/s  ({low:.0f} to {high:.0f})")
    print(
        f"ratio to the faster plain loop: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    device = fingerprint(torch.device("cpu"), workers)
    options.out.write_text(
        json.dumps(
            {
                "device": device.to_dict() | {"python": platform.python_version()},
                "architecture": ARCH,
                "proxy": PROXY.model_dump(mode="json"),
                "images_per_second": speeds,
                "baseline": baseline,
                "ratio": {
                    "median": statistics.median(ratios),
                    "min": min(ratios),
                    "max": max(ratios),
                },
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
