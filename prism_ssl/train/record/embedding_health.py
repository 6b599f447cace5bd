"""Spread and effective rank of the embeddings of the last steps, to detect collapse.

Every batch is centred on its own mean: an encoder that maps all views of a batch to one point has collapsed, even when
that point moves from step to step.
"""

from __future__ import annotations

import math
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

KEPT = 256
"""Embeddings used; their spectrum costs some 5 ms on one core. A rank above this cannot be measured."""

FEWEST = 16
"""Fewer embeddings than this do not determine a rank."""


class RecentEmbeddings:
    """The embeddings of the last steps, about ``KEPT`` of them; only ``row`` waits for the device."""

    def __init__(self) -> None:
        self._batches: deque[Tensor] = deque()

    def add(self, embeddings: Float[Tensor, "M D"]) -> None:
        """Add one batch; no device sync."""
        self._batches.append(embeddings)
        while len(self._batches) > 1 and (len(self._batches) - 1) * len(embeddings) >= KEPT:
            self._batches.popleft()

    def row(self) -> dict[str, float]:
        """``embedding/*``; NaN while there are too few embeddings, or when one is not finite.

        ``std_mean`` and ``std_min`` are over the dimensions. ``spread`` is the root mean square distance from the
        batch mean, divided by that from 0: 0 when all embeddings are equal, about 1 when their mean is 0.
        ``effective_rank`` is that of Roy & Vetterli 2007 (RankMe of Garrido et al. 2023, on centred embeddings), at
        most ``KEPT``.
        """
        batches = [batch[:KEPT].float().cpu() for batch in self._batches]
        embeddings = torch.cat(batches)
        if len(embeddings) < FEWEST or not embeddings.isfinite().all():
            return dict.fromkeys(_SCALARS, math.nan)
        centred = torch.cat([batch - batch.mean(0) for batch in batches])
        std = centred.square().mean(0).sqrt()
        length = embeddings.square().sum(1).mean().sqrt()
        spread = float(std.norm() / length.clamp(min=1e-12))
        return dict(zip(_SCALARS, (float(std.mean()), float(std.min()), spread, effective_rank(centred)), strict=True))


def effective_rank(centred: Float[Tensor, "n D"]) -> float:
    """exp of the entropy of the singular values' shares (Roy & Vetterli 2007, eq. 1 to 3); 0 when all are 0."""
    wide = centred.double() if centred.shape[0] <= centred.shape[1] else centred.double().T
    singular = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0.0).sqrt()  # 20 times faster than svdvals
    if float(singular.sum()) == 0.0:
        return 0.0
    return float(torch.special.entr(singular / singular.sum()).sum().exp())


_SCALARS = tuple(f"embedding/{name}" for name in ("std_mean", "std_min", "spread", "effective_rank"))
