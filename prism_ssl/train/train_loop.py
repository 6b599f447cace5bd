"""The training loop of a Ray Train worker."""

from __future__ import annotations

from prism_ssl.contracts import RunSummary
from prism_ssl.train.run.loop_config import LoopConfig
from prism_ssl.train.worker import Attempt


def train_loop(order: LoopConfig) -> RunSummary:
    """Train from the order's checkpoint (or step 0) to ``max_steps``; history and summary go to the run folder.

    Raises the error that ended the attempt early, after it was written to the summary.
    """
    with Attempt(order) as attempt:
        while not attempt.finished:
            batch, wait = attempt.next_batch()
            report = attempt.learn(batch)
            attempt.record(report, wait)
            attempt.checkpoint_if_due()
            attempt.evaluate_if_due()
        attempt.evaluate()
        attempt.report()
    return attempt.summary
