"""One optimisation step: forward, losses, backward, and an update that is skipped when it is not finite."""

from __future__ import annotations

from typing import Any

import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PrismBatch, PrismOutput
from prism_ssl.model.loss import LossBundle, LossReport
from prism_ssl.model.network import PrismNet, build_network
from prism_ssl.model.partners import across, next_of_series, partners
from prism_ssl.model.precision import training_autocast
from prism_ssl.train.distributed.batch_parts import encoded_in_parts, gradients_of_parts
from prism_ssl.train.distributed.joint_batch import joint_batch, sum_gradients
from prism_ssl.train.distributed.ranks import Ranks
from prism_ssl.train.optimizer import Optimizers


class Learner:
    """Network, objective and optimiser of a run on one device; with several ``ranks``, identical on each.

    ``last_update_finite`` is a device tensor: 1 when the last step updated the weights, 0 when its loss or
    gradient was not finite and the update was skipped. ``update_is_whole`` is False while weights are being changed.
    """

    def __init__(self, config: PrismConfig, device: torch.device, ranks: Ranks | None = None) -> None:
        self._config, self.device, self._ranks = config, device, ranks or Ranks(0, 1)
        self.network: PrismNet = build_network(config.model).to(device)
        self._forward: Any = self.network
        if config.model.compile and device.type == "cuda":
            self._forward = torch.compile(self.network)
        self._losses = LossBundle(config.loss, config.view, config.model.objective)
        self._optimizers = Optimizers(self.network, config.train)
        self.last_update_finite = torch.ones((), device=device)
        self.update_is_whole = True

    def step(self, batch: PrismBatch, step: int) -> LossReport:
        """Train on a batch (or this rank's part) at 0-based ``step``, without device sync; reports on all pairs."""
        self._optimizers.begin(step)
        parts = self._config.train.grad_accumulation
        if parts == 1:
            output = self._encode(
                batch.patches_a, batch.positions_a, batch.patches_b, batch.positions_b, batch.series_label
            )
        else:
            output = encoded_in_parts(self._encode, batch, parts)
        facts = across(batch, partners(batch.series_label, parts)) if self._config.loss.heads_across_pairs else batch
        report = self._losses(*joint_batch(output, facts, self._ranks), step)
        report.total.backward()
        if parts > 1:
            gradients_of_parts(self._encode, batch, parts, output)
        self._forget_gradients_without_weight(report)
        sum_gradients(self.network.parameters(), self._ranks)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._config.train.grad_clip)
        self.last_update_finite = (torch.isfinite(report.total) & torch.isfinite(norm)).float()
        self.update_is_whole = False
        self._optimizers.step(found_inf=1.0 - self.last_update_finite)
        self.update_is_whole = True
        return report

    def _encode(self, *columns: torch.Tensor) -> PrismOutput:
        *views, series_label = columns
        partner = [next_of_series(series_label)] if self._config.loss.heads_across_pairs else []
        with training_autocast(self._config.train.precision, self.device):
            output: PrismOutput = self._forward(*views, *partner)
        return output

    def _forget_gradients_without_weight(self, report: LossReport) -> None:
        """Clear the gradient of heads with loss weight 0: AdamW then neither decays them nor counts the step."""
        # torch.compile gives zero gradients to parameters that the loss does not reach; eager mode gives none
        for name, head in self.network.heads.by_loss().items():
            if report.terms[name].weight == 0:
                head.zero_grad(set_to_none=True)

    def learning_rate(self, step: int) -> float:
        """Learning rate of AdamW at 0-based ``step``."""
        return self._optimizers.learning_rate(step)

    def state(self) -> dict[str, Any]:
        """Weights and optimiser state, for a checkpoint."""
        return {"network": self.network.state_dict(), **self._optimizers.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.network.load_state_dict(state["network"])
        self._optimizers.load_state(state)
