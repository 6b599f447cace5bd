"""Encoder and heads as one trainable network."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prism_ssl.config.schema import ModelConfig
from prism_ssl.contracts import PrismOutput
from prism_ssl.model.backbone import PrismEncoder, build_encoder
from prism_ssl.model.heads import PairHeads


class PrismNet(nn.Module):
    """One encoder that sees both views, and the heads that compare them."""

    def __init__(self, encoder: PrismEncoder, heads: PairHeads) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads

    def forward(
        self,
        patches_a: Float[Tensor, "B N 16 16 1"],
        positions_a: Float[Tensor, "B N 3"],
        patches_b: Float[Tensor, "B N 16 16 1"],
        positions_b: Float[Tensor, "B N 3"],
        partner: Int[Tensor, " B"] | None = None,
    ) -> PrismOutput:
        """Predictions for B pairs; patches in [-1, 1], positions in mm of each view's prism frame.

        ``partner``: see ``PairHeads``.
        """
        embeddings = self.encoder(torch.cat([patches_a, patches_b]), torch.cat([positions_a, positions_b]))
        embedding_a, embedding_b = embeddings.chunk(2)
        output: PrismOutput = self.heads(embedding_a, embedding_b, partner)
        return output


def build_network(config: ModelConfig) -> PrismNet:
    """A freshly initialised network, from torch's global generator; never compiled here."""
    encoder = build_encoder(config.preset)
    encoder.checkpointing = config.activation_checkpointing
    return PrismNet(encoder, PairHeads(config.objective, encoder.width, config.projection_dim))
