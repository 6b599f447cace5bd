"""Heads on two embeddings: predict how the views differ, and project for SupCon."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prism_ssl.config.network import Objective
from prism_ssl.contracts import PrismOutput

DISTANCE_OUTPUTS: Final[dict[Objective, int]] = {"regression": 4, "classification": 3}
"""K of the distance head: (distance, dx, dy, dz), or the signs of (dx, dy, dz)."""


def _init_linear(module: nn.Module) -> None:
    """Truncated normal weights of std 0.02 and zero biases: every head starts near "no difference"."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _pair_mlp(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, width), nn.GELU(), nn.Linear(width, outputs))


class PairHeads(nn.Module):
    """Four pair heads on [a, b, b - a] and the SupCon projection (two layers, Khosla et al. 2020).

    Args:
        objective: regression (differences b - a) or classification (logits of their signs).
        width: D.
        projection_dim: P.
    """

    def __init__(self, objective: Objective, width: int, projection_dim: int) -> None:
        super().__init__()
        self.objective: Objective = objective
        self.distance = _pair_mlp(width, DISTANCE_OUTPUTS[objective])
        self.rotation = _pair_mlp(width, 3)
        self.window_center = _pair_mlp(width, 1)
        self.window_width = _pair_mlp(width, 1)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, projection_dim))
        self.apply(_init_linear)

    def by_loss(self) -> dict[str, nn.Module]:
        """The parts, by the name of the loss that trains them."""
        return {
            "distance": self.distance,
            "rotation": self.rotation,
            "window_center": self.window_center,
            "window_width": self.window_width,
            "supcon": self.projection,
        }

    def project(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B P"]:
        """Projection of unit norm, which SupCon compares (norms below 1e-6 are not scaled up to 1)."""
        return nn.functional.normalize(self.projection(embedding), dim=-1, eps=1e-6)

    def forward(
        self,
        embedding_a: Float[Tensor, "B D"],
        embedding_b: Float[Tensor, "B D"],
        partner: Int[Tensor, " B"] | None = None,
        masked_error: Float[Tensor, " B"] | None = None,
    ) -> PrismOutput:
        """All predictions in float32, also under autocast.

        The pair heads compare view a of a pair with view b of the pair ``partner`` (None: of the same pair).
        ``masked_error`` is passed on.
        """
        # bfloat16 resolves a displacement of 100 mm to 0.5 mm
        with torch.autocast(embedding_a.device.type, enabled=False):
            a, b = embedding_a.float(), embedding_b.float()
            compared = b if partner is None else b[partner]
            pair = torch.cat([a, compared, compared - a], dim=-1)
            return PrismOutput(
                distance=self.distance(pair),
                rotation=self.rotation(pair),
                window_center=self.window_center(pair),
                window_width=self.window_width(pair),
                projection_a=self.project(a),
                projection_b=self.project(b),
                embedding_a=a,
                embedding_b=b,
                masked_error=torch.ones(len(a), device=a.device) if masked_error is None else masked_error,
            )
