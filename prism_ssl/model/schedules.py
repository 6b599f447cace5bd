"""Schedules over the steps: the weight of SupCon and the learning rate."""

from __future__ import annotations

import math
from typing import Final

LR_FLOOR: Final = 0.1
"""Share of the peak learning rate that is left at the end."""


def supcon_weight(step: int, warmup: int, ramp: int, target: float) -> float:
    """Two-stage weight of SupCon (guide 7.3): 0 for ``warmup`` steps, linear over ``ramp`` steps, then ``target``.

    With ``ramp`` 0 it is ``target`` at once.
    """
    if step < warmup:
        return 0.0
    if ramp <= 0:
        return target
    t = min(1.0, (step - warmup) / float(ramp))
    return target * t


def lr_factor(step: int, warmup: int, max_steps: int) -> float:
    """Learning rate of 0-based ``step`` as a share of its peak, for ``LambdaLR``.

    Linear to 1 at step ``warmup - 1`` (never 0, so the first step already learns), then half a cosine
    (Loshchilov and Hutter 2017) down to a tenth at ``max_steps``, where it stays.
    """
    if step < warmup:
        return (step + 1) / warmup
    t = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    return LR_FLOOR + (1.0 - LR_FLOOR) * 0.5 * (1.0 + math.cos(math.pi * t))
