"""One attempt at a run, from its start or resume to its end, whatever that end is."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import BrokenScan, PrismBatch, RunStatus, RunSummary
from prism_ssl.data.collate import Collator
from prism_ssl.data.memory_plan import check_mirror_fits, require_gpu
from prism_ssl.data.quarantine import quarantine_scan
from prism_ssl.data.sharded_dataset import Cursors, PairStream, WaitCauses
from prism_ssl.errors import (
    CheckpointError,
    PoolActorDied,
    PoolStalled,
    PrismError,
    ReplacementFailed,
    RunInterrupted,
    TooManyBrokenScans,
)
from prism_ssl.eval.evaluate import Evaluator
from prism_ssl.model.export import save_encoder, verify_export
from prism_ssl.model.loss import LossReport
from prism_ssl.train.checkpoint import Checkpoint, load_checkpoint, restore_rng, rng_state, save_checkpoint
from prism_ssl.train.learner import Learner
from prism_ssl.train.local_record import last_probe, read_history
from prism_ssl.train.model_card import save_model_card
from prism_ssl.train.nonfinite import NonFiniteGuard
from prism_ssl.train.quota_guard import QuotaGuard
from prism_ssl.train.recorder import Recorder
from prism_ssl.train.run_folder import identity
from prism_ssl.train.stop_request import attempt_has_ended, raise_if_stop_is_requested
from prism_ssl.train.tracking_identity import read_tracked_as
from prism_ssl.train.work_order import WorkOrder
from prism_ssl.utils.machine import usable_cpus

GOOD_WEIGHTS = (ReplacementFailed, PoolActorDied, PoolStalled, TooManyBrokenScans, RunInterrupted)
"""Ends at which the weights are good: a checkpoint is written, so that nothing trained so far is lost."""

ERROR_FILE = "error.txt"
"""Traceback of an error that nobody foresaw."""

_CUDA_FLAG_LAG = 4  # steps; by then the collator's wait for its buffer has shown that the flag is computed


class Attempt:
    """Stream, learner and recorder of an attempt, and the rule how it may end.

    As a context manager it stops the actors, saves what can be saved and writes the summary on every way out:
    ``ok`` only when all steps ran and nothing failed unseen, ``interrupted`` when it was asked to end before.
    """

    def __init__(self, order: WorkOrder) -> None:
        config = order.config
        self._order, self._config = order, config
        device = _prepare_torch(config)
        _check_mirror(order, device)
        self._learner = Learner(config, device)
        first_step, cursors = self._restore()
        self._recorder = Recorder(
            config, order.run_dir, first_step, order.checkpoint, self._learner.network.heads.by_loss()
        )
        self._guard = NonFiniteGuard(
            order.run_dir,
            config.train.seed,
            config.train.max_nonfinite_steps,
            lag=_CUDA_FLAG_LAG if device.type == "cuda" else 0,
        )
        self._quota = QuotaGuard(config.quota, order.places)
        self._evaluator = Evaluator(order.held_out, config, order.catalog)
        self._said_left_out = False
        self._collate = Collator(device, config.train.batch_size, config.data.n_patches, config.data.extract_on)
        self._cursors = cursors
        self._stream: PairStream | None = None
        self._stream_stopped = False
        self._quarantined: set[str] = set()

    # ------------------------------------------------------------------ the loop's verbs
    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self._recorder.steps_done >= self._config.train.max_steps

    def next_batch(self) -> tuple[PrismBatch, WaitCauses]:
        """The next batch on the device, and how long it was waited for."""
        assert self._stream is not None, "an attempt is used as a context manager"
        raise_if_stop_is_requested(self._order.stop_file)
        chunks, wait = next(self._stream)
        return self._collate(chunks), wait

    def learn(self, batch: PrismBatch) -> LossReport:
        """One optimisation step; raises ``NonFiniteLoss`` when too many in a row were not finite."""
        step = self._recorder.steps_done
        report = self._learner.step(batch, step)
        self._guard.watch(step, self._learner.last_update_finite, batch.visits)
        return report

    def record(self, report: LossReport, wait: WaitCauses) -> None:
        """Note the step; on log steps write a row of the history. Raises ``QuotaExceeded`` when a disk is too full."""
        if self._recorder.step(report, wait):
            self._recorder.row(self._learner.learning_rate(self._recorder.steps_done - 1), self._counters())
        for note in self._quota.poll():
            self._recorder.event("quota", note)

    def checkpoint_if_due(self) -> None:
        """Write last.ckpt every ``train.checkpoint_every`` steps, where an artifact is due, and at the end."""
        due = self._recorder.steps_done % self._config.train.checkpoint_every == 0
        if due or self._recorder.artifact_due or self.finished:
            self._guard.settle()
            self._save()

    def evaluate_if_due(self) -> None:
        """``evaluate`` every ``eval.every`` steps, but for the last one."""
        every = self._config.eval.every
        if every is not None and self._recorder.steps_done % every == 0 and not self.finished:
            self.evaluate()

    def evaluate(self) -> None:
        """Ask the network about the held-out scans; changes neither step times nor what is learned."""
        with self._recorder.aside():
            values = self._evaluator(self._learner.network)
            self._recorder.evaluated(values)
        for scan in self._evaluator.left_out if not self._said_left_out else ():
            self._recorder.event(
                "broken_scan", f"held-out scan {scan.scan_id} is left out of the probe set: {scan.cause}"
            )
        self._said_left_out = True

    @property
    def summary(self) -> RunSummary:
        """How the attempt ended."""
        return self._recorder.summary

    # ------------------------------------------------------------------ beginning and end
    def __enter__(self) -> Attempt:
        try:
            verify_export(self._learner.network.encoder, self._description(), self._order.places.tmp_root / "export")
            self._quota.start()
            self._stream = PairStream(
                self._order.shards,
                self._order.actor_settings(),
                self._config.data,
                pairs_per_chunk=self._config.train.batch_size // self._config.data.workers,
                name=self._order.run_dir.name,
                cursors=self._cursors,
                on_broken=self._note_broken,
            )
        except BaseException as error:
            self._fail(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._end_or_fail()
            else:
                self._fail(error)
        finally:
            attempt_has_ended()

    def _end_or_fail(self) -> None:
        try:
            self._end_well()
        except BaseException as late:
            self._fail(late)
            raise

    def _end_well(self) -> None:
        self._guard.settle()
        self._stop_stream(quietly=False)
        run_dir = self._order.run_dir
        encoder = save_encoder(self._learner.network.encoder, run_dir, self._description())
        save_model_card(run_dir, last_probe(read_history(run_dir)), self._recorder.alarms)
        self._recorder.finish("ok", None, self._counters(), encoder)

    def _fail(self, error: BaseException) -> None:
        self._stop_stream(quietly=True)
        if isinstance(error, ReplacementFailed):
            self._quarantine(BrokenScan(error.scan_id, error.stage, error.cause))
        if not isinstance(error, PrismError):
            (self._order.run_dir / ERROR_FILE).write_text("".join(traceback.format_exception(error)))
        if isinstance(error, GOOD_WEIGHTS) and self._recorder.steps_done > 0:
            self._save()
        status: RunStatus = "interrupted" if isinstance(error, RunInterrupted) else "failed"
        self._recorder.finish(status, f"{type(error).__name__}: {error}", self._counters(), None)

    def _stop_stream(self, quietly: bool) -> None:
        """End the actors, once; what they had not reported yet counts like any other failure."""
        self._quota.close()
        if self._stream is None or self._stream_stopped:
            return
        self._stream_stopped = True
        broken, died = self._stream.stop()
        for scan in broken:
            self._note_broken(scan)
        if quietly or not self._config.data.strict:
            return
        if broken:
            raise ReplacementFailed(broken[0].scan_id, broken[0].stage, broken[0].cause)
        if died:
            raise PoolActorDied("; ".join(died))

    # ------------------------------------------------------------------ parts
    def _description(self) -> dict[str, Any]:
        return self._order.encoder_description(self._recorder.steps_done)

    def _restore(self) -> tuple[int, Cursors | None]:
        if self._order.checkpoint is None:
            return 0, None
        checkpoint = load_checkpoint(self._order.checkpoint, self._learner.device)
        if checkpoint.config_hash != identity(self._config):
            raise CheckpointError(
                f"{self._order.checkpoint} was written under other settings; give the same ones to resume it, "
                "or choose another --run.name"
            )
        self._learner.load_state(checkpoint.learner)
        restore_rng(checkpoint.rng)
        return checkpoint.step, checkpoint.cursors

    def _save(self) -> None:
        tracked = read_tracked_as(self._order.run_dir)
        checkpoint = Checkpoint(
            step=self._recorder.steps_done,
            learner=self._learner.state(),
            cursors=self._stream.cursors() if self._stream else [],
            rng=rng_state(),
            config_hash=identity(self._config),
            tracked=dataclasses.asdict(tracked) if tracked else None,
        )
        self._recorder.saved(save_checkpoint(self._order.run_dir, checkpoint))

    def _note_broken(self, scan: BrokenScan) -> None:
        self._quarantine(scan)
        self._recorder.event("broken_scan", f"scan {scan.scan_id} failed ({scan.stage}): {scan.cause}; quarantined")

    def _quarantine(self, scan: BrokenScan) -> None:
        if scan.scan_id in self._quarantined:
            return
        self._quarantined.add(scan.scan_id)
        paths = (s.record.nifti_path for shard in self._order.shards for s in shard if s.record.scan_id == scan.scan_id)
        quarantine_scan(self._order.quarantine_file, scan, Path(next(paths)))

    def _counters(self) -> dict[str, float]:
        counters = self._stream.counters() if self._stream else {}
        if self._collate.mirror is not None:
            counters["mirrored_bytes"] = float(self._collate.mirror.used_bytes)
        return {**counters, **self._quota.counters(), "nonfinite_skipped_steps": float(self._guard.skipped_steps)}


def _prepare_torch(config: PrismConfig) -> torch.device:
    # Ray gives its workers one OpenMP thread each; on a CPU the model may have the cores that the actors leave over.
    left_over = usable_cpus() - config.data.workers
    torch.set_num_threads(config.train.torch_threads or max(1, left_over))
    torch.manual_seed(config.train.seed)
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_mirror(order: WorkOrder, device: torch.device) -> None:
    if order.config.data.extract_on == "cuda" and not order.extract_without_gpu:
        require_gpu(order.config, torch.cuda.device_count())
        check_mirror_fits(order.config, order.shards, torch.cuda.mem_get_info(device)[1])
