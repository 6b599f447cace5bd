"""Encoder and heads as one trainable network."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prism_ssl.config.network import ModelConfig
from prism_ssl.contracts import PrismOutput
from prism_ssl.model.backbone import PrismEncoder, build_encoder
from prism_ssl.model.heads import PairHeads
from prism_ssl.model.masked_patches import MaskedPatches, seen_patches


class PrismNet(nn.Module):
    """One encoder that sees both views, and the heads that compare them.

    With ``masked_share`` above 0 that share of each view's patches is hidden from the encoder in training, and
    ``decoder`` predicts them. In evaluation nothing is hidden.
    """

    def __init__(self, encoder: PrismEncoder, heads: PairHeads, masked_share: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads
        self.masked_share = masked_share
        self.decoder = MaskedPatches(encoder.shape) if masked_share else None

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
        patches, positions = torch.cat([patches_a, patches_b]), torch.cat([positions_a, positions_b])
        error: Tensor | None = None
        if self.decoder is None or not self.training:
            embeddings = self.encoder(patches, positions)
        else:
            seen = seen_patches(patches.shape[1], self.masked_share)
            embeddings, tokens = self.encoder(patches[:, :seen], positions[:, :seen], return_patches=True)
            error = self.decoder(embeddings, tokens, positions, patches[:, seen:]).view(2, -1).mean(dim=0)
        embedding_a, embedding_b = embeddings.chunk(2)
        output: PrismOutput = self.heads(embedding_a, embedding_b, partner, error)
        return output


def build_network(config: ModelConfig) -> PrismNet:
    """A freshly initialised network, from torch's global generator; never compiled here."""
    encoder = build_encoder(config.preset, vars(config))
    encoder.checkpointing = config.activation_checkpointing
    heads = PairHeads(config.objective, encoder.width, config.projection_dim)
    return PrismNet(encoder, heads, config.masked_share)


def block_matrices(network: PrismNet) -> list[nn.Parameter]:
    """The trained weight matrices of the encoder's blocks, which Muon has where ``train.muon_lr`` is set."""
    return [p for p in network.encoder.blocks.parameters() if p.requires_grad and is_matrix(p)]


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight is neither a bias nor a norm nor a token."""
    return weight.ndim >= 2 and min(weight.shape) > 1
