"""The encoder: a vision transformer over patches at arbitrary positions in space.

Legend of ``contracts.py``; here also T tokens (CLS, then the N patches), Q tokens that are read out,
A attention heads, C channels of a head, F rotated channel pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prism_ssl.config.network import ENCODER_INPUTS, Preset
from prism_ssl.contracts import PATCH_PX

WAVELENGTH_MM_MIN: Final = 4.0
"""Shortest rotary wavelength: differences of a quarter patch stay visible."""
WAVELENGTH_MM_MAX: Final = 512.0
"""Longest rotary wavelength: all positions within a body part stay distinct."""


PATCH_STATISTICS: Final = 2
"""What ``normalized`` adds to the pixels of a patch."""
_TINY: Final = 1e-12
_FLAT: Final = 0.02  # a patch with less spread than this, of pixels in [-1, 1], counts as flat

POSITION_WAVELENGTHS_MM: Final = (16.0, 32.0, 64.0, 128.0, 256.0)
"""Of ``PositionFeatures``: from one patch to five balls of the default views."""
POSITION_FEATURES: Final = 3 * (1 + 2 * len(POSITION_WAVELENGTHS_MM))
"""Numbers that ``PositionFeatures`` takes from a position."""
_POSITION_MM: Final = 20.0  # coordinates in this unit are about as large as their sines


@dataclass(frozen=True)
class EncoderShape:
    """Size of an encoder (D = ``width``, ``depth`` blocks, A = ``heads``), and what of a patch it is given.

    ``normalize_patches``: see ``normalized``. ``position_features``: see ``PositionFeatures``.
    """

    width: int
    depth: int
    heads: int
    normalize_patches: bool = False
    position_features: bool = False

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")

    @property
    def patch_inputs(self) -> int:
        """Numbers that the patch embedding takes from a patch."""
        return PATCH_PX * PATCH_PX + (PATCH_STATISTICS if self.normalize_patches else 0)


PRESETS: Final[dict[Preset, EncoderShape]] = {
    "tiny": EncoderShape(width=128, depth=4, heads=4),
    "small": EncoderShape(width=384, depth=12, heads=6),
    "base": EncoderShape(width=768, depth=12, heads=12),
    "large": EncoderShape(width=1024, depth=24, heads=16),
}
"""ViT-S, ViT-B and ViT-L of Dosovitskiy et al. 2021, and one for a laptop."""


def _init_linear(module: nn.Module) -> None:
    """Xavier uniform weights and zero biases, as He et al. 2022 (MAE) start their encoder."""
    # truncated normal of std 0.02 suits width 1024 only: at width 128 displacement was learned half as far in 300 steps
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class Rotary3d(nn.Module):
    """Continuous rotary positions in three dimensions (RoFormer, Su et al. 2021, eq. 34; per axis).

    The F = 3 * (C // 6) channel pairs are split evenly over x, y and z; within an axis the wavelengths are
    geometric from 4 to 512 mm. Channels left over are not rotated.

    Raises:
        ValueError: a head has fewer than 6 channels.
    """

    frequencies: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        pairs_per_axis = head_dim // 6
        if pairs_per_axis == 0:
            raise ValueError(f"a head has {head_dim} channels, 6 needed for one rotary pair per axis; use fewer heads")
        exponents = torch.linspace(0.0, 1.0, pairs_per_axis, dtype=torch.float64)
        wavelengths_mm = WAVELENGTH_MM_MIN * (WAVELENGTH_MM_MAX / WAVELENGTH_MM_MIN) ** exponents
        self.register_buffer("frequencies", (2.0 * math.pi / wavelengths_mm).float(), persistent=False)

    def forward(
        self, positions_mm: Float[Tensor, "B T 3"]
    ) -> tuple[Float[Tensor, "B 1 T C"], Float[Tensor, "B 1 T C"]]:
        """Cosine and sine by which ``rotate`` turns each channel, always in float32, also under autocast.

        The sine of the first F channels is negated; channels left over have cosine 1 and sine 0.
        """
        # bfloat16 would round 30 mm at wavelength 4 mm (47 rad) by up to 0.12 rad
        angles = positions_mm.float().unsqueeze(-1) * self.frequencies
        angles = angles.flatten(-2).unsqueeze(1)
        cos, sin = angles.cos(), angles.sin()
        left_over = (0, self.head_dim - 2 * angles.shape[-1])
        pad = nn.functional.pad
        return pad(torch.cat([cos, cos], dim=-1), left_over, value=1.0), pad(torch.cat([-sin, sin], dim=-1), left_over)


def rotate(
    x: Float[Tensor, "B A T C"], cos: Float[Tensor, "B 1 T C"], sin: Float[Tensor, "B 1 T C"]
) -> Float[Tensor, "B A T C"]:
    """Channels (f, F + f) of ``x`` turned by angle f; channels from 2F on as they are. Keeps the dtype of ``x``."""
    # Whole channels, not halves that are joined again: 5 operations in place of 9, and the same bits. Forward and
    # backward on one thread of a busy CPU, tiny and ViT-L shape: 0.78 and 0.88 of the time in float32, 0.66 and 1.08
    # (slower) in bfloat16. On a GPU it was not measured.
    pairs = 3 * (x.shape[-1] // 6)
    other = torch.cat([x[..., pairs : 2 * pairs], x[..., :pairs], x[..., 2 * pairs :]], dim=-1)
    return (x * cos + other * sin).to(x.dtype)


class PositionFeatures(nn.Linear):
    """Positions -> what is added to the tokens: a linear map of coordinates, and of their sines and cosines.

    Rotary positions change only who attends to whom: a token, and the sum that attention makes of tokens, do not say
    where a patch lies. With these features they do (Vaswani et al. 2017, section 3.5; here five wavelengths an axis).
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(POSITION_FEATURES, width)
        self.register_buffer("frequencies", 2.0 * math.pi / torch.tensor(POSITION_WAVELENGTHS_MM), persistent=False)

    def forward(self, positions_mm: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N D"]:
        """For patch centres in the prism frame."""
        angles = (positions_mm.unsqueeze(-1) * self.frequencies).flatten(-2)
        mapped: Tensor = super().forward(torch.cat([angles.sin(), angles.cos(), positions_mm / _POSITION_MM], dim=-1))
        return mapped


class RotaryAttention(nn.Module):
    """Multi-head attention with scores that depend on positions only through differences (patch to patch)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def _by_head(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B A T C"]:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(
        self,
        readers: Float[Tensor, "B Q D"],
        tokens: Float[Tensor, "B T D"],
        cos: Float[Tensor, "B 1 T C"],
        sin: Float[Tensor, "B 1 T C"],
    ) -> Float[Tensor, "B Q D"]:
        """Attention output of ``readers``, the first Q of ``tokens``, over all tokens."""
        n_readers = readers.shape[1]
        key, value = self.key_value(tokens).chunk(2, dim=-1)
        query = rotate(self._by_head(self.query(readers)), cos[:, :, :n_readers], sin[:, :, :n_readers])
        key = rotate(self._by_head(key), cos, sin)
        gathered = _attend(query, key, self._by_head(value))
        mixed: Tensor = self.out(gathered.transpose(1, 2).flatten(-2))
        return mixed


def _attend(
    query: Float[Tensor, "B A Q C"], key: Float[Tensor, "B A T C"], value: Float[Tensor, "B A T C"]
) -> Float[Tensor, "B A Q C"]:
    """Scaled dot product attention, in float32 on a CPU: torch's backward pass in bfloat16 takes ten times as long."""
    if query.device.type == "cpu" and query.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            return _attend(query.float(), key.float(), value.float()).to(value.dtype)
    return nn.functional.scaled_dot_product_attention(query, key, value)


class Block(nn.Module):
    """Pre-norm transformer block with an MLP four times as wide."""

    # Under autocast the residual sum is bf16 too. Compared to float32 throughout (autocast on a CPU, attention too, 24
    # blocks, new weights), gradients are 1.6 % off, with a float32 sum 1.0 %. That sum costs 4 bytes a channel and
    # block, and its benefit is not measured.

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6)
        self.attention = RotaryAttention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        tokens: Float[Tensor, "B T D"],
        cos: Float[Tensor, "B 1 T C"],
        sin: Float[Tensor, "B 1 T C"],
        n_read: int | None = None,
    ) -> Float[Tensor, "B Q D"]:
        """The first ``n_read`` tokens after the block (None: all of them)."""
        normed = self.norm_attention(tokens)
        read = tokens[:, :n_read] + self.attention(normed[:, :n_read], normed, cos, sin)
        updated: Tensor = read + self.mlp(self.norm_mlp(read))
        return updated


def normalized(pixels: Float[Tensor, "B N P"]) -> Float[Tensor, "B N P2"]:
    """Each patch with mean 0 and standard deviation 1, then its mean and the logarithm of its standard deviation.

    Another contrast changes texture and its strength least. The linear patch embedding cannot compute them, so it gets
    them as input. Both statistics are scaled to a range like that of the pixels.
    """
    mean = pixels.mean(dim=2, keepdim=True)
    centred = pixels - mean
    spread = (centred.square().mean(dim=2, keepdim=True) + _TINY).sqrt() + _FLAT  # a root of 0 has no gradient
    return torch.cat([centred / spread, 4.0 * mean, 4.0 * spread.log() + 8.0], dim=2)


class PrismEncoder(nn.Module):
    """A set of patches and their positions -> one embedding of the prism.

    The CLS token sits at the prism centre (position 0), so the embedding depends on where patches lie about the
    centre and not on their order. ``checkpointing``: the backward pass computes each block's activations again.
    """

    checkpointing = False

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embedding = nn.Linear(shape.patch_inputs, shape.width)
        self.position_embedding = PositionFeatures(shape.width) if shape.position_features else None
        self.cls = nn.Parameter(torch.empty(shape.width))
        self.rotary = Rotary3d(shape.width // shape.heads)
        self.blocks = nn.ModuleList([Block(shape.width, shape.heads) for _ in range(shape.depth)])
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.apply(_init_linear)
        nn.init.trunc_normal_(self.cls, std=0.02)

    @property
    def width(self) -> int:
        """D, the width of the embedding."""
        return self.shape.width

    def forward(
        self,
        patches: Float[Tensor, "B N 16 16 1"],
        positions_mm: Float[Tensor, "B N 3"],
        return_patches: bool = False,
    ) -> Float[Tensor, "B D"] | tuple[Float[Tensor, "B D"], Float[Tensor, "B N D"]]:
        """Embedding of each prism: the CLS token after the last norm.

        Args:
            patches: windowed intensities in [-1, 1].
            positions_mm: patch centres in the prism frame.
            return_patches: also return the token of each patch after the last norm. No loss has trained the patch
                tokens of the last block; the embedding may differ in its last bits.
        """
        pixels = patches.flatten(2)
        embedded = self.patch_embedding(normalized(pixels) if self.shape.normalize_patches else pixels)
        if self.position_embedding is not None:
            embedded = embedded + self.position_embedding(positions_mm)
        cls = self.cls.to(embedded.dtype).expand(embedded.shape[0], 1, -1)
        tokens = torch.cat([cls, embedded], dim=1)
        cos, sin = self.rotary(nn.functional.pad(positions_mm, (0, 0, 1, 0)))
        last = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            # only CLS is read, so the last block leaves the patches alone (tiny, B 16, N 64: 191 -> 155 ms)
            n_read = 1 if depth == last and not return_patches else None
            if self.checkpointing and torch.is_grad_enabled():
                # no block draws random numbers, and reading the GPU's generator would wait for it
                tokens = checkpoint(block, tokens, cos, sin, n_read, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, cos, sin, n_read)
        if return_patches:
            normed = self.norm(tokens)
            return normed[:, 0], normed[:, 1:]
        embedding: Tensor = self.norm(tokens[:, 0])
        return embedding


def shape_of(preset: Preset, told: Mapping[str, Any]) -> EncoderShape:
    """The shape of a preset with the ``ENCODER_INPUTS`` that ``told`` names; those it does not name are off."""
    return replace(PRESETS[preset], **{name: told.get(name, False) for name in ENCODER_INPUTS})


def build_encoder(preset: Preset, told: Mapping[str, Any] | None = None) -> PrismEncoder:
    """A freshly initialised encoder of ``shape_of``, from torch's global generator."""
    return PrismEncoder(shape_of(preset, told or {}))
