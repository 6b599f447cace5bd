"""Random pairs and answers to them, for the tests of model/."""

from __future__ import annotations

import torch
from torch import Tensor

from prism_ssl.config.network import Objective
from prism_ssl.contracts import PrismBatch, PrismOutput


def random_batch(n_pairs: int = 6, n_patches: int = 5, seed: int = 0, labels: list[int] | None = None) -> PrismBatch:
    """Pairs of noise with every difference well outside its dead zone, and pairs 2i, 2i + 1 of opposite signs."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    sign = (1.0 - 2.0 * (torch.arange(n_pairs) % 2)).unsqueeze(1)
    std = 50.0 + 200.0 * torch.rand(n_pairs, generator=g)
    delta_mm = sign * (10.0 + 60.0 * torch.rand(n_pairs, 3, generator=g))
    return PrismBatch(
        patches_a=normal(n_pairs, n_patches, 16, 16, 1).clamp(-1, 1),
        positions_a=10.0 * normal(n_pairs, n_patches, 3),
        patches_b=normal(n_pairs, n_patches, 16, 16, 1).clamp(-1, 1),
        positions_b=10.0 * normal(n_pairs, n_patches, 3),
        center_distance_mm=delta_mm.norm(dim=1),
        center_delta_mm=delta_mm,
        rotation_delta_deg=-sign * (2.0 + 10.0 * torch.rand(n_pairs, 3, generator=g)),
        window_delta=sign * std.unsqueeze(1) * (0.2 + torch.rand(n_pairs, 2, generator=g)),
        intensity_scale=std,
        series_label=torch.arange(n_pairs) if labels is None else torch.tensor(labels),
        subject_label=torch.arange(n_pairs) if labels is None else torch.tensor(labels),
        center_a_mm=(center_a_mm := 50.0 * normal(n_pairs, 3)),
        center_b_mm=center_a_mm + delta_mm,
        rotation_a_deg=5.0 * normal(n_pairs, 3),
        window_a=std.unsqueeze(1) * (3.0 + normal(n_pairs, 2)),
        window_known=torch.ones(n_pairs, dtype=torch.bool),
        scan_id=["scan"] * n_pairs,
        series_id=["series"] * n_pairs,
        visits=[],
    )


def output_of(distance: Tensor, rotation: Tensor, window: Tensor, projection: Tensor) -> PrismOutput:
    """An output whose two projections are the halves of ``projection`` and whose embeddings are the same."""
    a, b = projection.chunk(2)
    return PrismOutput(
        distance=distance,
        rotation=rotation,
        window_center=window[:, :1],
        window_width=window[:, 1:],
        projection_a=a,
        projection_b=b,
        embedding_a=a,
        embedding_b=b,
        masked_error=torch.ones(len(a)),
    )


def one_hot_projection(labels: Tensor) -> Tensor:
    """Projections of both views that SupCon cannot improve: one direction per series."""
    return torch.nn.functional.one_hot(labels.repeat(2)).float()


def perfect_output(batch: PrismBatch, objective: Objective, normalized: bool = True) -> PrismOutput:
    """The right answers: the differences (over 30 mm, 10 degrees and the robust std), or very sure logits."""
    distance = torch.cat([batch.center_distance_mm.unsqueeze(1), batch.center_delta_mm], dim=1)
    rotation, window = batch.rotation_delta_deg, batch.window_delta
    projection = one_hot_projection(batch.series_label)
    if objective == "classification":
        return output_of(40 * distance[:, 1:].sign(), 40 * rotation.sign(), 40 * window.sign(), projection)
    if normalized:
        return output_of(distance / 30.0, rotation / 10.0, window / batch.intensity_scale.unsqueeze(1), projection)
    return output_of(distance, rotation, window, projection)
