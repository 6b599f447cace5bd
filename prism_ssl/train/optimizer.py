"""Optimisers: AdamW, and Muon for the weight matrices of the encoder's blocks; both skip a step on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prism_ssl.config.schema import TrainConfig
from prism_ssl.model.network import PrismNet, block_matrices, is_matrix
from prism_ssl.model.schedules import lr_factor

_MOMENTUM = 0.95
_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
_LIKE_ADAMW = 0.2
"""Root mean square of an update of AdamW, which Muon's is scaled to (Liu et al. 2025, eq. 4)."""


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that skips its step when ``found_inf`` is 1, decided on the device without a sync.

    A skipped step leaves weights, moments and step counts unchanged.
    """

    found_inf: Tensor | None = None


class GuardedMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with AdamW's decay and size of updates, skipped as ``GuardedAdamW`` is.

    ``torch.optim.Muon`` takes the same steps and cannot be told on the device to skip one.
    """

    found_inf: Tensor | None = None

    def __init__(self, matrices: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Update every matrix that has a gradient."""
        assert closure is None, "no loss is computed again"
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group["lr"], group["weight_decay"])

    def _update(self, matrix: Float[Tensor, "R C"], gradient: Float[Tensor, "R C"], lr: float, decay: float) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        buffer = state["momentum_buffer"]
        momentum = buffer.lerp(gradient, 1.0 - _MOMENTUM)
        direction = orthogonal(gradient.lerp(momentum, _MOMENTUM))
        size = lr * _LIKE_ADAMW * math.sqrt(max(matrix.shape))
        stepped = matrix * (1.0 - lr * decay) - size * direction
        good = torch.ones_like(stepped[0, 0]) if self.found_inf is None else 1.0 - self.found_inf
        buffer.copy_(torch.where(good > 0, momentum, buffer))
        matrix.copy_(torch.where(good > 0, stepped, matrix))


def orthogonal(matrix: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
    """About U V^T of the singular value decomposition U S V^T, by five Newton-Schulz steps in bfloat16.

    The singular values end between about 0.7 and 1.2, which suffices (Jordan et al. 2024).
    """
    a, b, c = _COEFFICIENTS
    upright = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if upright else matrix).bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if upright else x).to(matrix.dtype)


class Optimizers:
    """The optimisers of a run as one: AdamW for all weights, or for all but the matrices that Muon has.

    AdamW decays weight matrices only, not biases, norms and tokens.
    """

    def __init__(self, network: PrismNet, config: TrainConfig) -> None:
        self._config = config
        of_muon = block_matrices(network) if config.muon_lr is not None else []
        taken = {id(matrix) for matrix in of_muon}
        rest = [p for p in network.parameters() if p.requires_grad and id(p) not in taken]
        matrices, others = [p for p in rest if is_matrix(p)], [p for p in rest if not is_matrix(p)]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.adamw = GuardedAdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
        self.muon = GuardedMuon(of_muon, config.muon_lr or 0.0, config.weight_decay) if of_muon else None

    def learning_rate(self, step: int) -> float:
        """AdamW's learning rate at 0-based ``step``."""
        return self._config.lr * self._factor(step)

    def begin(self, step: int) -> None:
        """Set the learning rates of 0-based ``step``, and forget the gradients of the one before."""
        factor = self._factor(step)
        for optimizer, peak in ((self.adamw, self._config.lr), (self.muon, self._config.muon_lr)):
            if optimizer is not None and peak is not None:
                optimizer.zero_grad(set_to_none=True)
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor

    def _factor(self, step: int) -> float:
        return lr_factor(step, self._config.lr_warmup_steps, self._config.max_steps)

    def step(self, found_inf: Float[Tensor, ""]) -> None:
        """Update the weights, or leave weights and state as they are where ``found_inf`` is 1."""
        for optimizer in (self.adamw, self.muon):
            if optimizer is not None:
                optimizer.found_inf = found_inf
                optimizer.step()

    def state(self) -> dict[str, Any]:
        """For a checkpoint: ``optimizer``, and ``muon`` where there is one."""
        muon = {"muon": self.muon.state_dict()} if self.muon is not None else {}
        return {"optimizer": self.adamw.state_dict(), **muon}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.adamw.load_state_dict(state["optimizer"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
