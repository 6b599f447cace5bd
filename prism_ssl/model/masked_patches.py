"""Reconstruct hidden patches from those that the encoder saw (masked autoencoder, He et al. 2022).

Legend of ``contracts.py``; here also V patches that the encoder sees, H = N - V hidden ones.
"""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prism_ssl.contracts import PATCH_PX
from prism_ssl.model.backbone import Block, EncoderShape, Rotary3d

DECODER_DEPTH: Final = 2
_FLAT: Final = 1e-4
"""Added to the variance of a patch, whose pixels are in [-1, 1], so that a flat patch has a target near 0."""


def seen_patches(n_patches: int, masked_share: float) -> int:
    """V. A view's patches lie at independent random places, so that its first V are a random choice."""
    return n_patches - round(n_patches * masked_share)


class MaskedPatches(nn.Module):
    """A decoder half as wide as the encoder: it reads the encoder's tokens, and predicts the pixels of hidden patches.

    A target is a patch with its own mean 0 and variance 1, as He et al. found best.

    Raises:
        ValueError: half the width leaves too few channels a head for rotary positions.
    """

    def __init__(self, encoder: EncoderShape) -> None:
        super().__init__()
        width = encoder.width // 2
        self.rotary = Rotary3d(width // encoder.heads)
        self.read = nn.Linear(encoder.width, width)
        self.hidden = nn.Parameter(torch.empty(width))
        self.blocks = nn.ModuleList([Block(width, encoder.heads) for _ in range(DECODER_DEPTH)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pixels = nn.Linear(width, PATCH_PX * PATCH_PX)
        nn.init.trunc_normal_(self.hidden, std=0.02)

    def forward(
        self,
        embedding: Float[Tensor, "B D"],
        tokens: Float[Tensor, "B V D"],
        positions_mm: Float[Tensor, "B N 3"],
        hidden: Float[Tensor, "B H 16 16 1"],
    ) -> Float[Tensor, " B"]:
        """Error of each view: the share of its hidden patches' variance that is not predicted; 1 is chance.

        Args:
            embedding: the CLS token of the encoder; the decoder reads it too.
            tokens: of the first V patches.
            positions_mm: of all patches; the hidden ones come last.
            hidden: intensities in [-1, 1].
        """
        n_hidden = hidden.shape[1]
        read = self.read(torch.cat([embedding.unsqueeze(1), tokens], dim=1))
        asked = self.hidden.to(read.dtype).expand(len(hidden), n_hidden, -1)
        x = torch.cat([read, asked], dim=1)
        cos, sin = self.rotary(nn.functional.pad(positions_mm, (0, 0, 1, 0)))
        for block in self.blocks:
            x = block(x, cos, sin)
        predicted = self.pixels(self.norm(x[:, -n_hidden:]))
        with torch.autocast(predicted.device.type, enabled=False):
            target = normalized_patches(hidden)
            missed = (predicted.float() - target).square().sum(dim=(1, 2))
            share: Tensor = missed / target.square().sum(dim=(1, 2)).clamp(min=1.0)
            return share


def normalized_patches(patches: Float[Tensor, "B H 16 16 1"]) -> Float[Tensor, "B H 256"]:
    """Pixels of each patch with mean 0 and variance 1; of a flat one, nearly 0."""
    pixels = patches.flatten(2).float()
    variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True, correction=0)
    return (pixels - mean) / (variance + _FLAT).sqrt()
