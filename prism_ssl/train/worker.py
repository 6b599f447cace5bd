"""One attempt at a run in a training worker: start or resume, steps, checkpoints, evaluations, end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.filesize import decimal

from prism_ssl.contracts import BrokenScan, PrismBatch, RunSummary, VisitKey
from prism_ssl.data.checks import quarantine_scan
from prism_ssl.data.collate import Collator
from prism_ssl.data.pool import join_counters, object_store_bytes, spill_note
from prism_ssl.data.sharded_dataset import Cursors, PairStream, WaitCauses
from prism_ssl.errors import CheckpointError, PoolActorDied, QuotaExceeded, ReplacementFailed, RunFolderError
from prism_ssl.eval.quality.evidence import write_evidence
from prism_ssl.eval.run_evaluator import Evaluator
from prism_ssl.model.export import save_encoder, verify_export
from prism_ssl.model.loss import LossReport
from prism_ssl.model.precision import IN_BF16_ON_CPU, trains_in_bf16_on_cpu
from prism_ssl.records.run_files import last_probe, read_history
from prism_ssl.train.checkpoint import Checkpoint, load_checkpoint, restore_rng, rng_state, save_checkpoint
from prism_ssl.train.distributed.devices import prepare_torch
from prism_ssl.train.distributed.ranks import Ranks, describe
from prism_ssl.train.guards.gpu_mirror import require_mirror_fits
from prism_ssl.train.guards.gpu_out_of_memory import out_of_memory_named
from prism_ssl.train.guards.nonfinite import NonFiniteGuard
from prism_ssl.train.guards.stop_request import (
    attempt_has_ended,
    raise_if_stop_is_requested,
    step_begins,
    stop_is_requested,
)
from prism_ssl.train.guards.unjudged_alarms import too_short_to_judge
from prism_ssl.train.learner import Learner
from prism_ssl.train.quota_guard import QuotaGuard
from prism_ssl.train.record.model_card import save_model_card
from prism_ssl.train.record.recorder import Recorder
from prism_ssl.train.record.step_clock import step_clock
from prism_ssl.train.record.step_counter import StepCounter
from prism_ssl.train.record.view_tally import ViewTally, views_file
from prism_ssl.train.resume.initial_weights import load_initial_weights
from prism_ssl.train.run.endings import errors_into, leaves_good_weights, status_after, write_traceback
from prism_ssl.train.run.folder import identities, identity
from prism_ssl.train.run.loop_config import LoopConfig
from prism_ssl.train.run.ray_report import report_to_ray
from prism_ssl.train.run.totals import carried, whole_run
from prism_ssl.train.tracking.identity import read_tracked_as
from prism_ssl.utils.disk_usage import free_bytes

_CUDA_FLAG_LAG = 4  # steps; by then the collator's wait for its buffer has shown that the flag is computed


class Attempt:
    """Stream, learner and recorder of an attempt.

    On leaving the context it stops the actors, writes a checkpoint if possible and writes the summary. The status is
    ``ok`` only when all steps ran and nothing failed, and ``interrupted`` when the attempt was asked to stop earlier.
    """

    def __init__(self, order: LoopConfig) -> None:
        config = order.config
        self._order, self._config = order, config
        self._ranks = Ranks.here(config.train.rank_timeout_s)
        self._shards = self._ranks.share_of(order.shards)
        device = prepare_torch(config, self._ranks)
        if not order.extract_without_gpu:
            require_mirror_fits(config, self._shards, device)
        self._learner = Learner(config, device, self._ranks)
        first_step, self._cursors, before = self._restore()
        self._saved_step, self._visits = first_step, list[VisitKey]()
        self._counted_before: dict[str, float] = before.get("counters", {})
        self._recorder = self._start_recorder(first_step, before.get("times"))
        self._guard = NonFiniteGuard(
            order.run_dir,
            config.train.seed,
            config.train.max_nonfinite_steps,
            lag=_CUDA_FLAG_LAG if device.type == "cuda" else 0,
            ranks=self._ranks,
        )
        self._views = ViewTally(views_file(order.run_dir, self._ranks.rank), go_on=first_step > 0)
        self._quota = QuotaGuard(config.quota, order.places)
        self._evaluator = Evaluator(order.held_out, config, order.catalog)
        self._said_left_out = self._said_spilled = False
        pairs = config.train.batch_size // self._ranks.size
        self._collate = Collator(device, pairs, config.data.n_patches, config.data.extract_on)
        self._stream: PairStream | None = None
        self._stream_stopped = False
        self._quarantined: set[str] = set()
        self._untold: list[BrokenScan] = []  # not yet reported to the first worker, which writes

    # ------------------------------------------------------------------ the loop's verbs
    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self._recorder.steps_done >= self._config.train.max_steps

    def next_batch(self) -> tuple[PrismBatch, WaitCauses]:
        """This worker's part of the next batch on the device, and the time spent waiting for it.

        With several workers, the time is that of the worker that waited longest.
        """
        assert self._stream is not None, "an attempt is used as a context manager"
        with self._ranks.together():
            raise_if_stop_is_requested(self._order.stop_file)
            chunks, wait = next(self._stream)
            self._recorder.data_is_here()
        self._views.note(chunks)
        waits = self._ranks.compare(dataclasses.astuple(wait))
        return self._collate(chunks), WaitCauses(*max(waits))

    def learn(self, batch: PrismBatch) -> LossReport:
        """One optimisation step; an update that is not finite is skipped."""
        step_begins()
        step = self._recorder.steps_done
        with out_of_memory_named(self._config, f"step {step + 1}"):
            report = self._learner.step(batch, step)
        self._cursors, self._visits = self._stream.cursors() if self._stream else None, batch.visits
        self._views.count()
        return report

    def record(self, report: LossReport, wait: WaitCauses) -> None:
        """Record the step; on log steps write a row of the history.

        Raises:
            NonFiniteLoss: too many steps in a row were not finite.
            QuotaExceeded: a disk is too full.
        """
        row_is_due = self._recorder.step(report, wait)
        with self._ranks.alike():  # after the step was counted, so that a checkpoint has the weights of that many steps
            self._guard.watch(self._recorder.steps_done - 1, self._learner.last_update_finite, self._visits)
        if row_is_due:
            counters = self._counters_of_all()
            with self._ranks.alone():
                self._recorder.row(self._learner.learning_rate(self._recorder.steps_done - 1), counters)
                self._tell_spill(counters.get("object_store_spilled_bytes", 0.0))
            if self._ranks.is_first:
                self._evaluator.draw_ahead()  # not sooner: the pools' first scans come before held-out ones
        with self._ranks.alone():
            for note in self._quota.poll():
                self._recorder.event("quota", note)

    def checkpoint_if_due(self) -> None:
        """Write last.ckpt every ``train.checkpoint_every`` steps, where an artifact is due, and at the end."""
        due = self._recorder.steps_done % self._config.train.checkpoint_every == 0
        if due or self._recorder.artifact_due or self.finished:
            with self._ranks.alike():
                self._guard.settle()
            self._save()
            self.report()

    def evaluate_if_due(self) -> None:
        """``evaluate`` every ``eval.every`` steps, except after the last step."""
        every = self._config.eval.every
        if every is not None and self._recorder.steps_done % every == 0 and not self.finished:
            self.evaluate()
            self.report()

    def evaluate(self) -> None:
        """Evaluate the network on the held-out scans; affects neither step times nor training.

        Only the first worker evaluates; the others wait for it at their next step.
        """
        if not self._ranks.is_first:
            return
        what = f"the evaluation after step {self._recorder.steps_done}"
        with self._ranks.alone():
            with self._recorder.aside("evaluation"), out_of_memory_named(self._config, what):
                values = self._evaluator(self._learner.network)
                self._recorder.evaluated(values)
                write_evidence(self._order.run_dir, self._evaluator.evidence)
            for kind, text in self._evaluator.events_of_left_out() if not self._said_left_out else ():
                self._recorder.event(kind, text)
            self._said_left_out = True

    def report(self) -> None:
        """Report progress to Ray's own views, unless a worker was asked to stop.

        Then Ray's controller may not take the report, and waiting for that would block the end of the run.
        """
        if any(asked for (asked,) in self._ranks.compare([float(stop_is_requested())])):
            return
        problem = report_to_ray(self._recorder.steps_done, self._recorder.shown)
        if problem is not None:
            with self._ranks.alone():
                self._recorder.event("reporting", problem)

    @property
    def summary(self) -> RunSummary:
        """How the attempt ended."""
        return self._recorder.summary

    # ------------------------------------------------------------------ beginning and end
    def __enter__(self) -> Attempt:
        try:
            if self._ranks.is_first:
                with self._ranks.alone():
                    folder = self._order.places.tmp_root / "export"
                    verify_export(self._learner.network.encoder, self._description(), folder)
                    self._quota.start()
                    self._evaluator.import_ahead()  # while the actors start, and the first scans are opened
                    if trains_in_bf16_on_cpu(self._config.train.precision, self._learner.device):
                        self._recorder.event("precision", IN_BF16_ON_CPU)
            with self._ranks.together():
                self._stream = PairStream(
                    self._shards,
                    self._order.actor_settings(len(self._shards)),
                    self._config.data,
                    pairs_per_chunk=self._config.train.batch_size // self._config.data.workers,
                    name=self._order.run_dir.name,
                    cursors=self._cursors,
                    on_broken=self._note_broken,
                    first_worker=self._ranks.rank * len(self._shards),
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
        with self._ranks.alike():
            self._guard.settle()
        with self._ranks.together():
            self._stop_stream(quietly=False)
        counters, encoder, run_dir = self._counters_of_all(), None, self._order.run_dir
        if self._ranks.is_first:
            encoder = save_encoder(self._learner.network.encoder, run_dir, self._description())
            not_judged = too_short_to_judge(self._config, self._recorder.steps_done)
            save_model_card(run_dir, last_probe(read_history(run_dir)), self._recorder.alarms, not_judged)
        self._recorder.finish("ok", None, counters, encoder)

    def _fail(self, error: BaseException) -> None:
        # The workers can only act together after an error that all of them know of.
        shared = self._ranks.size == 1 or error is self._ranks.shared
        status, unsaved, late = status_after(error), list[str](), list[str]()
        # Save first: whoever asked the run to stop may kill it before the actors have ended.
        if shared and self._is_worth_saving(error):
            with errors_into(unsaved):
                self._save()
        status = "failed" if unsaved else status
        with errors_into(late):
            self._stop_stream(quietly=True)
        if isinstance(error, ReplacementFailed) and self._ranks.is_first:
            with errors_into(late):
                self._quarantine(BrokenScan(error.scan_id, error.stage, error.cause))
        write_traceback(error, self._order.run_dir, self._ranks.rank)
        counters = self._counters()
        if shared:
            with errors_into(late):
                counters = self._counters_of_all()
        self._recorder.finish(status, "; ".join([describe(error), *unsaved, *late]), counters, None)
        if shared:
            self._ranks.wait_for_first()  # Ray ends all workers as soon as one of them has raised

    def _is_worth_saving(self, error: BaseException) -> bool:
        """Whether the weights are good and newer than the last checkpoint."""
        new = self._recorder.steps_done > self._saved_step
        # On a full disk a checkpoint may replace an earlier one, but a first one would need more space.
        may = self._saved_step > 0 or not isinstance(error, QuotaExceeded)
        return new and may and leaves_good_weights(error, self._learner.update_is_whole)

    def _stop_stream(self, quietly: bool) -> None:
        """Stop the actors, once; failures that they report only now count like any other."""
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

    def _restore(self) -> tuple[int, Cursors | None, dict[str, Any]]:
        if self._order.checkpoint is None:
            load_initial_weights(self._order.run_dir, self._config.model, self._learner.network)
            return 0, None, {}
        checkpoint = load_checkpoint(self._order.checkpoint, self._learner.device)
        if checkpoint.config_hash not in identities(self._config, self._order.run_dir):
            raise CheckpointError(
                f"{self._order.checkpoint} was written under other settings; use the same settings to resume it, "
                "or choose another --run.name"
            )
        steps = [step for (step,) in self._ranks.compare([checkpoint.step])]
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"{self._order.checkpoint} is of step {checkpoint.step:.0f} here and of {steps} for the training "
                "workers in their order; run.root must be one folder for all nodes"
            )
        self._learner.load_state(checkpoint.learner)
        restore_rng(checkpoint.rng)
        return checkpoint.step, list(self._ranks.share_of(checkpoint.cursors)) or None, checkpoint.totals or {}

    def _start_recorder(self, first_step: int, times: dict[str, Any] | None) -> StepCounter:
        config, run_dir = self._config, self._order.run_dir
        if not self._ranks.is_first:
            return StepCounter(config, run_dir, first_step, self._ranks.rank)
        heads = self._learner.network.heads.by_loss()
        clock = step_clock(self._learner.device)
        return Recorder(config, run_dir, first_step, self._order.checkpoint, heads, times, clock)

    def _save(self) -> None:
        mine = (self._cursors or [], self._stream.counters() if self._stream else {})
        parts, counters = zip(*self._ranks.exchange(mine), strict=True)
        cursors = [cursor for part in parts for cursor in part]
        self._saved_step = self._recorder.steps_done
        self._views.save()
        if self._ranks.is_first:
            with self._ranks.alone(), self._recorder.aside("checkpoint"):
                self._write_checkpoint(cursors, carried(self._counters(join_counters(counters))))

    def _write_checkpoint(self, cursors: Cursors, counters: dict[str, float]) -> None:
        tracked = read_tracked_as(self._order.run_dir)
        checkpoint = Checkpoint(
            step=self._recorder.steps_done,
            learner=self._learner.state(),
            cursors=cursors,
            rng=rng_state(),
            config_hash=identity(self._config),
            tracked=dataclasses.asdict(tracked) if tracked else None,
            split=dataclasses.asdict(self._order.split),
            totals={"counters": counters, "times": self._recorder.state()},
        )
        try:
            path = save_checkpoint(self._order.run_dir, checkpoint)
        except OSError as error:
            raise RunFolderError(
                f"the checkpoint of step {checkpoint.step} cannot be written to {self._order.run_dir} "
                f"({error.strerror or error}; {decimal(free_bytes(self._order.run_dir))} are free there); the one "
                "before is intact: make room, then run the same command again to resume at it"
            ) from error
        self._recorder.saved(path)

    def _tell_spill(self, spilled_bytes: float) -> None:
        if spilled_bytes and not self._said_spilled:
            self._said_spilled = True
            self._recorder.event("object_store", spill_note(spilled_bytes, object_store_bytes(self._config)))

    def _note_broken(self, scan: BrokenScan) -> None:
        if not self._ranks.is_first:
            self._untold.append(scan)
            return
        self._quarantine(scan)
        self._recorder.event("broken_scan", f"scan {scan.scan_id} failed ({scan.stage}): {scan.cause}; quarantined")

    def _quarantine(self, scan: BrokenScan) -> None:
        if scan.scan_id in self._quarantined:
            return
        self._quarantined.add(scan.scan_id)
        paths = (s.record.nifti_path for shard in self._order.shards for s in shard if s.record.scan_id == scan.scan_id)
        quarantine_scan(self._order.quarantine_file, scan, Path(next(paths)))

    def _counters_of_all(self) -> dict[str, float]:
        """The counters of all workers together; broken scans that they found are recorded as well."""
        words = self._ranks.exchange((self._pool_counters(), self._untold))
        self._untold = []
        for _, broken in words if self._ranks.is_first else ():
            for scan in broken:
                self._note_broken(scan)
        return self._counters(join_counters([counters for counters, _ in words]))

    def _counters(self, pools: dict[str, float] | None = None) -> dict[str, float]:
        pools = self._pool_counters() if pools is None else pools
        skipped = {"nonfinite_skipped_steps": float(self._guard.skipped_steps)}
        return whole_run(self._counted_before, {**pools, **self._quota.counters(), **skipped})

    def _pool_counters(self) -> dict[str, float]:
        counters = self._stream.counters() | self._stream.queue() if self._stream else {}
        if self._collate.mirror is not None:
            counters["mirrored_bytes"] = float(self._collate.mirror.used_bytes)
        return counters
