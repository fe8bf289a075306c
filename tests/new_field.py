"""All that a search needs of the field that docs/extending.md adds; run where it is added."""

from __future__ import annotations

import sys

import torch
from torch.utils.flop_counter import FlopCounterMode

from sret_nas import Architecture, SearchSpace, cost, create_model
from sret_nas.cost import QUANTITIES
from sret_nas.errors import ArchitectureError, ConfigError

SPACE = {
    "image_size": 16,
    "num_classes": 3,
    "stem_stride": 4,
    "all_stages": {"head_dim": [4, 8], "nll_ratio": [0.0, 0.5]},
    "each_stage": {"heads": 2, "tail_ratio": [0.0, 0.5, 0.6], "recursions": [1, 2], "groups": 1},
    "stages": [{"share": ["all", "none"]}, {"blocks": [1, 2]}],
}


def main() -> None:
    assert [Architecture.load(name).id for name in ("sret_t", "sret_s_512")] == sys.argv[1:]
    space = SearchSpace.load(SPACE)
    assert {"stage1.tail_ratio", "stage2.tail_ratio"} <= {d.name for d in space.coordinates}
    codes = space.coding.all_codes(0, space.size)
    archs = space.decode_many(codes)
    table = space.costs(codes, tuple(QUANTITIES))
    for name, column in table.items():
        assert column.tolist() == [getattr(cost(arch), name) for arch in archs], name
    for name, extreme in space.extremes.items():
        assert (extreme.low, extreme.high) == (table[name].min(), table[name].max()), name
    assert space.distinct.exact and space.distinct.value == len({arch.id for arch in archs})
    for arch in archs[::31]:
        assert space.decode(space.encode(arch)).id == arch.id
        model = create_model(arch, fused_attn=False).eval()
        assert sum(p.numel() for p in model.parameters()) == cost(arch).params
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 16, 16))
        assert counter.get_total_flops() == 2 * cost(arch).macs
        assert Architecture.from_yaml(arch.to_yaml()) == arch
        model = create_model(arch).train()
        model(torch.ones(1, 3, 16, 16).expand(2, -1, -1, -1)).square().sum().backward()
        assert all(p.grad is not None for p in model.parameters())
    refused(ArchitectureError, Architecture.load, {"stages": [{**STAGE, "tail_ratio": 0.01}]})
    refused(ConfigError, SearchSpace.load, {"stages": [{**STAGE, "tail_ratio": [0.0, 0.01]}]})


STAGE = {"heads": 2, "head_dim": 4}


def refused(error: type[Exception], load: object, data: object) -> None:
    assert callable(load)
    try:
        load(data)
    except error as found:
        assert "tail_ratio" in str(found) and "at least 0.125" in str(found), found
    else:
        raise AssertionError(data)


if __name__ == "__main__":
    main()
