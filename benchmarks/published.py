"""What the published SReT code computes, written anew in plain PyTorch, to measure against.

One operation after the other as there: attention as two products and a softmax, a
permutation drawn on the CPU at every call, eval included, and weights under the
published names. Tested against the published code's own logits and gradients.

Source: SReT, arXiv 2111.05297; the semantics of ``szq0214/SReT``.
Shapes: B batch, N tokens, C channels, G groups, H heads.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from sret_nas.arch import Architecture, Stage

EPS = 1e-6


class Coefficient(nn.Module):
    """A learnable factor, stored as a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias * x


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Self-attention inside contiguous groups of tokens, permuted in later loops."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x_BNC: Tensor, groups: int, permuted: bool) -> Tensor:
        B, N, C = x_BNC.shape
        if permuted:
            order_N = torch.randperm(N)
            inverse_N = order_N.argsort()
            x_BNC = x_BNC[:, order_N]
        qkv = self.qkv(x_BNC).reshape(B * groups, N // groups, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1)) * (C // self.heads) ** -0.5
        x_BNC = (weights.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, N, C)
        if permuted:
            x_BNC = x_BNC[:, inverse_N]
        return self.proj(x_BNC)


class Block(nn.Module):
    """Attention and MLP, each with a residual of two coefficients."""

    def __init__(self, stage: Stage, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(stage.dim, eps=EPS) for _ in range(2))
        self.attn = Attention(stage.dim, stage.heads)
        self.mlp = Mlp(stage.dim, stage.mlp_hidden)
        self.drop_path = DropPath(drop_path)
        for i in range(1, 5):
            setattr(self, f"coefficient{i}", Coefficient())

    def forward(self, x_BNC: Tensor, groups: int, permuted: bool) -> Tensor:
        branch = self.drop_path(self.attn(self.norm1(x_BNC), groups, permuted))
        x_BNC = self.coefficient1(x_BNC) + self.coefficient2(branch)
        branch = self.drop_path(self.mlp(self.norm2(x_BNC)))
        return self.coefficient3(x_BNC) + self.coefficient4(branch)


class Projection(nn.Module):
    """The non-linear projection layer that follows every application of a block."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(stage.dim, eps=EPS)
        self.mlp = Mlp(stage.dim, stage.nll_hidden)
        self.coefficient1, self.coefficient2 = Coefficient(), Coefficient()

    def forward(self, x_BNC: Tensor) -> Tensor:
        return self.coefficient1(x_BNC) + self.coefficient2(self.mlp(self.norm1(x_BNC)))


class Transformer(nn.Module):
    """The blocks of a stage: each applied as often as it recurs, before the next one."""

    def __init__(self, stage: Stage, rates: list[float]) -> None:
        super().__init__()
        self.groups = stage.groups
        self.blocks = nn.ModuleList()
        for unique in range(stage.blocks):
            block = Block(stage, rates[unique])
            for _ in range(stage.recursions):
                self.blocks.extend([block, Projection(stage)])

    def forward(self, x_BNC: Tensor) -> Tensor:
        for i in range(0, len(self.blocks), 2):
            loop = i // 2 % len(self.groups)
            groups = self.groups[loop]
            x_BNC = self.blocks[i](x_BNC, groups, loop > 0 and groups != 1)
            x_BNC = self.blocks[i + 1](x_BNC)
        return x_BNC


class Stem(nn.Module):
    """Three 3×3 convolutions, each with a norm and a ReLU."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        dim = arch.stages[0].dim
        widths = (arch.in_chans, dim // 2, dim, dim)
        for i in range(3):
            stride = 2 if 2**i < arch.stem_stride else 1
            conv = nn.Conv2d(widths[i], widths[i + 1], 3, stride, 1)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)))


class Pool(nn.Module):
    """A depthwise convolution that halves the grid."""

    def __init__(self, dim: int, wider: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, wider, 3, 2, 1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Published(nn.Module):
    """An architecture of the published kind: adjacent loops that share all, with projections.

    Args:
        arch: What to build.
        drop_path: Stochastic depth at the end of the network.
    """

    def __init__(self, arch: Architecture, drop_path: float = 0.1) -> None:
        super().__init__()
        if any(stage.order != "adjacent" or stage.share != "all" for stage in arch.stages):
            raise ValueError("the published code has adjacent loops that share all")
        self.arch = arch
        depth = sum(stage.depth for stage in arch.stages)
        first, dims = 0, [stage.dim for stage in arch.stages]
        self.patch_embed = Stem(arch)
        side = round(arch.tokens[0] ** 0.5)
        self.pos_embed = nn.Parameter(torch.empty(1, dims[0], side, side))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.transformers = nn.ModuleList()
        for stage in arch.stages:
            rates = [drop_path * (first + i) / depth for i in range(stage.blocks)]
            self.transformers.append(Transformer(stage, rates))
            first += stage.depth
        pairs = itertools.pairwise(dims)
        self.pools = nn.ModuleList(Pool(dim, wider) for dim, wider in pairs)
        self.norm = nn.LayerNorm(dims[-1], eps=EPS)
        self.head = nn.Linear(dims[-1], arch.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, S, S)."""
        x = self.patch_embed(x) + self.pos_embed
        for i, transformer in enumerate(self.transformers):
            if i:
                x = self.pools[i - 1](x)
            B, C, side, _ = x.shape
            x = transformer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(B, C, side, side)
        return self.head(self.norm(x.flatten(2).mean(-1)))
