"""The units an SReT stage is made of.

Shapes: B batch, N tokens, C channels, H heads, D channels per head, G slices,
S tokens per slice (N / G).

Source: SReT, arXiv 2111.05297; semantics of the published code. Departs:
``scaled_dot_product_attention``, tokens stay in raster order for a whole stage.
"""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

LAYER_NORM_EPS = 1e-6
ROW_BYTES = 16
"""What a row of queries, keys or values must be a multiple of for SDPA's fused CUDA kernels."""


class Residual(nn.Module):
    """``skip · x + branch · drop_path(y)`` with learnable scalars, or a plain sum.

    Args:
        scaled: Learnable residual coefficients (LRC); both start at 1.
        drop_path: Stochastic-depth rate of the branch.
    """

    def __init__(self, scaled: bool, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = DropPath(drop_path) if drop_path else None
        # One-element vectors, so that weight decay leaves them alone as it does a bias.
        self.skip = nn.Parameter(torch.ones(1)) if scaled else None
        self.branch = nn.Parameter(torch.ones(1)) if scaled else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set both scalars to 1; like ``nn.Linear``'s, for a start on ``meta``."""
        for scalar in (self.skip, self.branch):
            if scalar is not None:
                scalar.fill_(1.0)

    def forward(self, x_BNC: Tensor, y_BNC: Tensor) -> Tensor:
        """Join a unit's input with the output of its branch, (B, N, C) each."""
        if self.drop_path is not None:
            y_BNC = self.drop_path(y_BNC)
        if self.skip is None or self.branch is None:
            return x_BNC + y_BNC
        return torch.addcmul(y_BNC * self.branch, x_BNC, self.skip)


class SlicedAttention(nn.Module):
    """A residual unit: sliced group self-attention over contiguous slices.

    Args:
        dim: Channels C.
        heads: Attention heads H, a divisor of ``dim``.
        scaled: Learnable residual coefficients.
        qkv_bias: Bias of the query, key and value projection.
        attn_drop: Dropout of the attention weights.
        proj_drop: Dropout of the output projection.
        drop_path: Stochastic-depth rate.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        scaled: bool,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attn_drop = attn_drop
        self.proj_drop = proj_drop
        self.fused = True
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.residual = Residual(scaled, drop_path)

    def forward(
        self, x_BNC: Tensor, groups: int, permutation_2N: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Attend inside each slice.

        Args:
            x_BNC: Tokens in raster order.
            groups: Slices G, a divisor of N.
            permutation_2N: Order of the tokens before slicing and its inverse.
        """
        B, N, C = x_BNC.shape
        y_BNC = self.norm(x_BNC)
        if permutation_2N is not None:
            y_BNC = y_BNC.index_select(1, permutation_2N[0])
        qkv = self.qkv(y_BNC).view(B * groups, N // groups, 3, self.heads, C // self.heads)
        drop = self.attn_drop if self.training else 0.0
        y_BNC = attend(qkv, drop, self.fused).reshape(B, N, C)
        if permutation_2N is not None:
            y_BNC = y_BNC.index_select(1, permutation_2N[1])
        y_BNC = self.proj(y_BNC)
        if self.proj_drop:
            y_BNC = F.dropout(y_BNC, self.proj_drop, self.training)
        out: Tensor = self.residual(x_BNC, y_BNC)
        return out


def attend(qkv_bS3HD: Tensor, dropout: float, fused: bool) -> Tensor:
    """Attention by the kernel that suits the device and the precision, b = B·G.

    Args:
        qkv_bS3HD: Queries, keys and values.
        dropout: Dropout of the attention weights.
        fused: ``scaled_dot_product_attention`` where it is not slower.

    Returns:
        (b, S, H, D).
    """
    q_bSHD, k_bSHD, v_bSHD = qkv_bS3HD.unbind(2)
    if not fused or prefers_products(qkv_bS3HD):
        return attention_by_products(q_bSHD, k_bSHD, v_bSHD, dropout)
    return attention(q_bSHD, k_bSHD, v_bSHD, dropout)


# What it asks of a tensor, a tracer of torch.fx cannot answer: one node of its graph.
torch.fx.wrap("attend")


def attention(
    q_bSHD: Tensor,
    k_bSHD: Tensor,
    v_bSHD: Tensor,
    dropout: float = 0.0,
    row_bytes: int = ROW_BYTES,  # TorchScript sees no constant of a module
) -> Tensor:
    """Attention by ``scaled_dot_product_attention``, kept on its fused kernels.

    On a GPU, those that never hold the attention matrix take rows of a multiple of 16 bytes
    alone: other heads are filled up with zeros, which change nothing.

    Args:
        q_bSHD: Queries (b, S, H, D), b = B·G.
        k_bSHD: Keys, of the same shape.
        v_bSHD: Values, of the same shape.
        dropout: Dropout of the attention weights.
        row_bytes: What a row must be a multiple of, in bytes.

    Returns:
        (b, S, H, D), in memory as such where the kernel allows it.
    """
    D = q_bSHD.shape[-1]
    q, k, v = q_bSHD.transpose(1, 2), k_bSHD.transpose(1, 2), v_bSHD.transpose(1, 2)
    missing = -D % (row_bytes // q.element_size()) if q.is_cuda else 0
    if missing:
        q, k, v = F.pad(q, (0, missing)), F.pad(k, (0, missing)), F.pad(v, (0, missing))
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=D**-0.5)
    return y[..., :D].transpose(1, 2)


def prefers_products(qkv: Tensor) -> bool:
    """Whether two plain products are faster than SDPA's kernel for these queries.

    They are in half precision on a CPU, several times so backwards (docs/decisions/0003).
    """
    return qkv.is_cpu and qkv.dtype != torch.float32


def attention_by_products(
    q_bSHD: Tensor, k_bSHD: Tensor, v_bSHD: Tensor, dropout: float = 0.0
) -> Tensor:
    """Attention by two plain matrix products, for counters that are blind to SDPA.

    Args:
        q_bSHD: Queries (b, S, H, D), b = B·G.
        k_bSHD: Keys, of the same shape.
        v_bSHD: Values, of the same shape.
        dropout: Dropout of the attention weights.

    Returns:
        (b, S, H, D), what ``attention`` computes up to rounding.
    """
    q, k, v = q_bSHD.transpose(1, 2), k_bSHD.transpose(1, 2), v_bSHD.transpose(1, 2)
    attention_bHSS = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
    if dropout:
        attention_bHSS = F.dropout(attention_bHSS, dropout)
    y_bHSD: Tensor = attention_bHSS @ v
    return y_bHSD.transpose(1, 2)


class MlpUnit(nn.Module):
    """A residual unit: LayerNorm, two linear layers with GELU between them.

    Serves as a block's MLP and as the non-linear projection layer (NLL).

    Args:
        dim: Channels C.
        hidden: Hidden channels.
        scaled: Learnable residual coefficients.
        drop: Dropout after each linear layer.
        drop_path: Stochastic-depth rate.
    """

    def __init__(
        self, dim: int, hidden: int, scaled: bool, drop: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.drop = drop
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.residual = Residual(scaled, drop_path)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Apply the unit to every token by itself, (B, N, C)."""
        y = F.gelu(self.fc1(self.norm(x_BNC)))
        if self.drop:
            y = F.dropout(y, self.drop, self.training)
        y = self.fc2(y)
        if self.drop:
            y = F.dropout(y, self.drop, self.training)
        out: Tensor = self.residual(x_BNC, y)
        return out


class Stem(nn.Sequential):
    """Three 3×3 convolutions with BatchNorm and ReLU; the first have stride 2.

    Args:
        in_chans: Input channels.
        dim: Output channels; the first convolution has half of them.
        stride: 1, 2, 4 or 8 in all.
    """

    def __init__(self, in_chans: int, dim: int, stride: int) -> None:
        channels = (in_chans, dim // 2, dim, dim)
        halvings = stride.bit_length() - 1
        super().__init__(
            *(
                layer
                for i in range(3)
                for layer in (
                    nn.Conv2d(
                        channels[i], channels[i + 1], 3, stride=2 if i < halvings else 1, padding=1
                    ),
                    nn.BatchNorm2d(channels[i + 1]),
                    nn.ReLU(inplace=True),
                )
            )
        )
