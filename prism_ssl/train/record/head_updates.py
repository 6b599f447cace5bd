"""Relative change of each head's parameters between two rows, to detect frozen heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector


class HeadUpdates:
    """Compares the parameters of ``heads`` (by the name of their loss) with those at the last row.

    Keeps one copy of the heads: 55 MB for the largest preset.
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        self._heads = dict(heads)
        self._before = self._parameters()

    def row(self) -> dict[str, torch.Tensor]:
        """``update/<head>``: norm of the change since the last call over the norm before; exactly 0 when frozen."""
        before, self._before = self._before, self._parameters()
        return {
            f"update/{name}": (now - before[name]).norm() / before[name].norm().clamp(min=1e-12)
            for name, now in self._before.items()
        }

    def _parameters(self) -> dict[str, torch.Tensor]:
        return {name: parameters_to_vector(head.parameters()).detach() for name, head in self._heads.items()}
