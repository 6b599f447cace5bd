"""Cost of the diagnostics (noting every step, judging a row every 100 steps) against the steps themselves.

    python tests/benchmarks/bench_diagnostics.py --json

The project's learner on one cached batch on this CPU, at the size of the recipe phantom-cpu, in turns with the
diagnostics of 100 such steps. A larger encoder makes the share smaller: only the spectrum of the embeddings grows.
"""

from __future__ import annotations

from typing import Any

import torch
from harness import at_most, circumstances, measure, parser, report

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PrismBatch
from prism_ssl.model.loss import LossReport
from prism_ssl.train.guards.alarm_rules import alarm_rules
from prism_ssl.train.guards.alarms import Alarms
from prism_ssl.train.learner import Learner
from prism_ssl.train.record.diagnostics import Diagnostics

LOG_EVERY = 100


def noise_batch(config: PrismConfig) -> PrismBatch:
    """A batch of noise in the sizes of ``config``; what is in it costs no time."""
    B, N = config.train.batch_size, config.data.n_patches
    patches, positions, delta = torch.randn(2, B, N, 16, 16, 1), torch.randn(2, B, N, 3), torch.randn(B, 8)
    return PrismBatch(
        patches_a=patches[0],
        positions_a=positions[0],
        patches_b=patches[1],
        positions_b=positions[1],
        center_distance_mm=delta[:, 0].abs(),
        center_delta_mm=delta[:, :3],
        rotation_delta_deg=delta[:, 3:6],
        window_delta=delta[:, 6:],
        intensity_scale=torch.ones(B),
        series_label=torch.arange(B) // 2,
        subject_label=torch.arange(B) // 2,
        center_a_mm=delta[:, :3],
        center_b_mm=2 * delta[:, :3],
        rotation_a_deg=delta[:, 3:6],
        window_a=delta[:, 6:],
        window_known=torch.ones(B, dtype=torch.bool),
        scan_id=[],
        series_id=[],
        visits=[],
    )


class Watched:
    """A learner and its diagnostics."""

    def __init__(self, config: PrismConfig) -> None:
        self._learner = Learner(config, torch.device("cpu"))
        self._batch = noise_batch(config)
        self._diagnostics = Diagnostics(config.model.objective, self._learner.network.heads.by_loss())
        self._alarms = Alarms(alarm_rules(config), 0)
        self._rows = 0
        self._last: LossReport = self._learner.step(self._batch, 0)

    def step(self) -> None:
        """One training step."""
        self._last = self._learner.step(self._batch, 1)

    def diagnose(self) -> None:
        """What ``LOG_EVERY`` steps note down, and what their log step reads and judges."""
        for _ in range(LOG_EVERY):
            self._diagnostics.add(self._last)
        self._rows += 1
        self._alarms.judge(LOG_EVERY * self._rows, self._diagnostics.row())


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measures and prints."""
    options = parser(__doc__).parse_args(arguments)
    where = circumstances()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = phantom_cpu()
    watched = Watched(config)
    diagnosis = f"diagnostics of {LOG_EVERY} steps"
    contestants = {"one step": watched.step, diagnosis: watched.diagnose}
    timings = measure(contestants, repeats=3 if options.quick else 30, warmup=3)
    share = timings[diagnosis].median_ms / (LOG_EVERY * timings["one step"].median_ms)
    rows = [
        at_most(f"diagnostics at log_every={LOG_EVERY}", "the steps themselves", 2.0, 100 * share, "% of their time")
    ]
    facts = {
        "setting": f"{config.model.preset} encoder, B {config.train.batch_size}, N {config.data.n_patches}, 1 thread"
    }
    return report("bench_diagnostics", where, timings, rows, options.json, facts)


if __name__ == "__main__":
    main()
