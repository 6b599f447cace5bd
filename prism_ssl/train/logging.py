"""Weights & Biases tracking of a run: rows, media, checkpoint artifacts, and how the run ended.

Nothing here may end or delay a training that has begun: failures go to ``Tracker.problems``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from prism_ssl.config.operations import TrackingMode
from prism_ssl.config.schema import PrismConfig
from prism_ssl.config.tracking_environment import GENERATED, settled, tracking_mode
from prism_ssl.contracts import RunSummary
from prism_ssl.errors import RunInterrupted, TrackingError
from prism_ssl.model.encoder_source import EXPORT_FILES
from prism_ssl.records.run_files import CHECKPOINT_FILE, is_probe, read_history, read_lineage
from prism_ssl.records.wandb_api import WITHOUT_W_AND_B, has_key, open_api, service_errors
from prism_ssl.train.tracking.background_work import BackgroundWork
from prism_ssl.train.tracking.client_processes import wait_for_clients
from prism_ssl.train.tracking.identity import TrackedAs, keep_tracked_as, public_settings, tracked_as
from prism_ssl.utils.fs import private_folder, temporary_root
from prism_ssl.utils.wandb_client import load_client

ARTIFACT_TYPE, ENCODER_TYPE = "checkpoint", "encoder"
INTERRUPTED_EXIT_CODE = 143
"""The exit code that a shell reports for a process ended by SIGTERM."""
GLOBAL_STEP = "global_step"
_ORPHAN_PATIENCE_S = 15.0
SETTINGS_HASH = "settings_hash"
"""Key of the hash by which runs with equal settings are found."""


class Tracker:
    """Interface of a run's tracker; this one, for mode ``disabled``, does nothing."""

    mode: TrackingMode = "disabled"

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._told = 0

    def new_problems(self) -> list[str]:
        """Tracking problems since the last call."""
        new, self._told = self.problems[self._told :], len(self.problems)
        return new

    def row(self, global_step: int, values: Mapping[str, float]) -> None:
        """Scalars at a step; never blocks."""

    def image(self, name: str, path: Path, global_step: int) -> None:
        """A picture (.png) under ``name``: a plot, a panel of views."""

    def checkpoint(self, path: Path, global_step: int) -> None:
        """Upload a checkpoint as the artifact's ``latest`` version, in the background; the newest always goes up."""

    def finish(self, summary: RunSummary) -> dict[str, str]:  # noqa: ARG002  not tracked
        """End the tracked run; returns the value of ``RunSummary.tracking``."""
        return {"mode": self.mode}


def start_tracker(config: PrismConfig, run_dir: Path, first_step: int) -> Tracker:
    """The tracker of an attempt that begins after ``first_step``; it continues a run that was tracked before.

    Raises:
        TrackingError: online, and there is no key, the key is refused, or the server does not answer.
    """
    mode = tracking_mode(config.tracking)
    if mode == "disabled":
        return Tracker()
    return _WandbTracker(config, run_dir, first_step, mode)


def checkpoint_due(config: PrismConfig, global_step: int) -> bool:
    """Whether a checkpoint written at this step must be uploaded."""
    every = config.tracking.artifact_every
    if tracking_mode(config.tracking) != "online" or every is None:
        return False
    return global_step % every == 0 or global_step == config.train.max_steps


def check_account(config: PrismConfig) -> None:
    """Online: check key and server before the run starts. Does nothing in the other modes.

    Raises:
        TrackingError: no key, a refused key, or a server that does not answer within ``tracking.init_timeout_s``.
    """
    if tracking_mode(config.tracking) == "online":
        load_client(temporary_root(config.run.tmp_root))
        with service_errors():
            if not has_key(config):
                raise TrackingError(f"no W&B key was found; set WANDB_API_KEY, or {WITHOUT_W_AND_B}")
            open_api(config).default_entity  # noqa: B018  makes the server answer


def wait_for_tracking_clients(config: PrismConfig) -> None:
    """Online: wait until the W&B clients of dead training workers have sent their rows."""
    if tracking_mode(config.tracking) == "online":
        wait_for_clients(temporary_root(config.run.tmp_root), _ORPHAN_PATIENCE_S)


def end_lost_run(config: PrismConfig, run_dir: Path, summary: RunSummary) -> dict[str, str]:
    """End the tracked run of a training worker that died: send missing rows and mark the run failed.

    Returns the value of ``RunSummary.tracking``. Offline, rows that the dead worker had not written are lost.
    """
    mode = tracking_mode(config.tracking)
    if mode != "online":
        return {"mode": mode}
    wait_for_tracking_clients(config)
    try:
        return start_tracker(config, run_dir, summary.steps_done).finish(summary)
    except TrackingError as error:
        return {"mode": mode, "problem": str(error)}


class _WandbTracker(Tracker):
    """Tracks a run with the W&B client; rows that the server already has are not sent again."""

    def __init__(self, config: PrismConfig, run_dir: Path, first_step: int, mode: TrackingMode) -> None:
        super().__init__()
        self.mode = mode
        self._config, self._run_dir = config, run_dir
        self._tmp_root = temporary_root(config.run.tmp_root)
        self._tracked = tracked_as(run_dir, config)
        self._uploads = BackgroundWork("checkpoint-upload")
        self._wandb = load_client(self._tmp_root)
        with service_errors():
            self._run = self._init(run_dir.name)
        self._tracked = self._as_it_is()
        keep_tracked_as(run_dir, self._tracked)
        self._tell_ancestor(first_step)
        self._sent = self._last_sent(first_step)
        self._catch_up(first_step)

    def row(self, global_step: int, values: Mapping[str, float]) -> None:
        if (global_step, is_probe(values)) > self._sent:
            with self._noting(f"the row of step {global_step}"):
                finite = {name: value for name, value in values.items() if math.isfinite(value)}
                self._run.log({GLOBAL_STEP: global_step, **finite})
        self.problems += [f"a checkpoint was not uploaded ({error})" for error in self._uploads.errors()]

    def image(self, name: str, path: Path, global_step: int) -> None:
        with self._noting(f"the image {name}"):
            self._run.log({GLOBAL_STEP: global_step, name: self._wandb.Image(str(path))})

    def checkpoint(self, path: Path, global_step: int) -> None:
        try:
            source = path.open("rb")  # keeps this checkpoint, even if a newer one replaces the file meanwhile
        except OSError as error:
            self.problems.append(f"the checkpoint of step {global_step} was not uploaded ({error.strerror or error})")
            return

        def upload() -> None:
            with source:
                self._upload(source, global_step)

        self._uploads.offer(upload, source.close)

    def finish(self, summary: RunSummary) -> dict[str, str]:
        patience_s = self._config.tracking.finish_timeout_s / 2  # the other half is for the client, see _settings
        deadline = time.monotonic() + patience_s
        if not self._uploads.wait(patience_s):
            self.problems.append(f"a checkpoint was not uploaded within {patience_s:.0f} s")
        self.problems += [f"a checkpoint was not uploaded ({error})" for error in self._uploads.errors()]
        with self._noting("pictures"):
            for picture in (*self._run_dir.glob("*.png"), *self._run_dir.glob("plots/*.png")):
                self.image(f"media/{picture.stem}", picture, summary.steps_done)
        # However long the checkpoint took, the encoder has a chance.
        encoder = self._end_with_encoder(summary, max(patience_s / 2, deadline - time.monotonic()))
        with self._noting("the summary"):
            self._run.summary.update(_end_of_run(summary))
        with self._noting("the end of the run"):
            self._run.finish(exit_code=_exit_code(summary))
        told = {"mode": self.mode, "run_id": self._tracked.run_id, "url": self._tracked.url}
        told |= {"encoder": encoder} if encoder else {}
        told |= {"files": self._sync_dir} if self.mode == "offline" or self.problems else {}
        told |= {"problem": "; ".join(dict.fromkeys(self.problems))} if self.problems else {}
        return {name: value for name, value in told.items() if value}

    # ------------------------------------------------------------------ parts
    def _init(self, name: str) -> Any:
        tracking = settled(self._config.tracking)
        facts = {SETTINGS_HASH: self._tracked.settings, GENERATED: self._config.data.catalog_path is None}
        run = self._wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            group=tracking.group,
            tags=list(tracking.tags) or None,
            id=self._tracked.run_id,
            name=tracking.name or name,
            notes=tracking.notes,
            config=public_settings(self._config) | facts | _lineage_facts(self._run_dir),
            mode=self.mode,
            resume="allow" if self.mode == "online" else None,
            settings=_settings(self._wandb, self._config, self._tmp_root),
        )
        run.define_metric(GLOBAL_STEP)
        run.define_metric("*", step_metric=GLOBAL_STEP)
        self._sync_dir = str(Path(run.dir).parent)
        return run

    def _tell_ancestor(self, first_step: int) -> None:
        """Note in W&B's own graph that the run began with an artifact's weights."""
        artifact = (read_lineage(self._run_dir) or {}).get("artifact")
        if artifact and first_step == 0 and self.mode == "online":
            with self._noting("the artifact that the run starts from"):
                self._run.use_artifact(artifact)

    def _as_it_is(self) -> TrackedAs:
        """The run that the client tracks; a problem is noted if it is not the requested one."""
        run = self._run
        real = {"run_id": run.id, "project": run.project, "entity": run.entity or None, "url": run.url}
        tracked = dataclasses.replace(self._tracked, **real)
        if (tracked.project, tracked.run_id) != (self._tracked.project, self._tracked.run_id):
            self.problems.append(f"W&B tracks this run as {tracked.path}, not as the requested {self._tracked.path}")
        return tracked

    def _last_sent(self, first_step: int) -> tuple[int, bool]:
        """Step and kind of the last row that the server has (an evaluation follows the row of its step).

        If the server cannot say, all rows so far are assumed to be there: a missing row is better than a double one.
        """
        if not self._run.resumed or self._run.starting_step == 0:
            return (-1, False)
        last = (first_step, True)
        with self._noting("what was missing before"):
            tracked = open_api(self._config).run(self._tracked.path)
            rows = tracked.scan_history(min_step=self._run.starting_step - 1, use_cache=False)
            known = [row for row in rows if GLOBAL_STEP in row]
            # The pictures are sent last, at the end of a run, after the evaluation of its step.
            last = max((int(row[GLOBAL_STEP]), is_probe(row) or _has_pictures(row)) for row in known)
        return last

    def _catch_up(self, first_step: int) -> None:
        """Send the rows of the local history that the server lacks because the run was killed."""
        if self._run.resumed:
            for row in read_history(self._run_dir):
                if "event" not in row and row[GLOBAL_STEP] <= first_step:
                    values = {name: value for name, value in row.items() if name != GLOBAL_STEP and value is not None}
                    self.row(row[GLOBAL_STEP], values)

    def _upload(self, source: IO[bytes], global_step: int) -> None:
        folder = self._tmp_root / "wandb" / "upload" / self._tracked.run_id
        shutil.rmtree(folder, ignore_errors=True)  # the copy of an earlier upload that failed
        private_folder(folder)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f"{global_step}-", delete=False) as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            artifact = self._wandb.Artifact(self._tracked.artifact, ARTIFACT_TYPE, metadata={GLOBAL_STEP: global_step})
            _add_open_file(artifact, copy, CHECKPOINT_FILE)
            self._run.log_artifact(artifact, aliases=["latest"]).wait(timeout=_UPLOAD_S)
        shutil.rmtree(folder)  # only now: the client may read from it until the upload is confirmed
        _prune(self._config, self._tracked)

    def _end_with_encoder(self, summary: RunSummary, patience_s: float) -> str | None:
        """Upload the exported encoder, if the run has one; returns its name."""
        if summary.encoder is None or self.mode != "online" or self._config.tracking.artifact_every is None:
            return None
        name = self._tracked.encoder_path.split("/")[-1].removesuffix(":latest")
        uploaded: str | None = None
        artifact = self._wandb.Artifact(name, ENCODER_TYPE, metadata={GLOBAL_STEP: summary.steps_done})
        with self._noting("the encoder"), contextlib.ExitStack() as files:
            for path in (Path(summary.encoder).parent / file for file in EXPORT_FILES):
                _add_open_file(artifact, files.enter_context(path.open("rb")), path.name)
            self._run.log_artifact(artifact, aliases=["latest"]).wait(math.ceil(patience_s))
            uploaded = self._tracked.encoder_path
        return uploaded

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Turn any error of the client into a problem, so that it does not end the training."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  edge of a foreign service: kept in problems
            self.problems.append(f"{what} was not tracked ({type(error).__name__}: {error})")


_UPLOAD_S = 3600
"""An upload that takes longer is abandoned, so that the next one can begin."""


def _lineage_facts(run_dir: Path) -> dict[str, Any]:
    return {f"lineage.{name}": value for name, value in (read_lineage(run_dir) or {}).items()}


def _has_pictures(row: dict[str, Any]) -> bool:
    return any(name.startswith("media/") for name in row)


def _add_open_file(artifact: Any, file: Any, name: str) -> None:
    # By file descriptor: the uploaded manifest contains the path, and a path may contain the user's name.
    artifact.add_file(f"/proc/{os.getpid()}/fd/{file.fileno()}", name=name, policy="immutable", skip_cache=True)


def _settings(wandb: Any, config: PrismConfig, tmp_root: Path) -> Any:
    return wandb.Settings(
        root_dir=str(tmp_root / "wandb" / "runs"),
        init_timeout=config.tracking.init_timeout_s,
        finish_timeout=config.tracking.finish_timeout_s / 2,
        finish_timeout_raises=True,
        silent=True,
        console="off",
        # Do not upload paths, host names or lists of packages.
        x_disable_meta=True,
        x_save_requirements=False,
        save_code=False,
        disable_git=True,
        disable_job_creation=True,
        host="",
        sagemaker_disable=True,  # on SageMaker the client would choose its own run id
        program="",
    )


def _prune(config: PrismConfig, tracked: TrackedAs) -> None:
    """Delete the versions of the checkpoint artifact that have no alias."""
    for version in open_api(config).artifacts(ARTIFACT_TYPE, tracked.artifact_path):
        if not version.aliases:
            version.delete()


def _exit_code(summary: RunSummary) -> int:
    if summary.status == "ok":
        return 0
    return INTERRUPTED_EXIT_CODE if (summary.cause or "").startswith(RunInterrupted.__name__) else 1


def _end_of_run(summary: RunSummary) -> dict[str, Any]:
    """The part of the summary that may leave the machine: numbers, the status, and the class of the cause."""
    kind = summary.cause.split(":", 1)[0] if summary.cause else None
    facts = {"status": summary.status, "cause": kind, "steps_done": summary.steps_done, "alarms": len(summary.alarms)}
    probe = {f"probe/{name}": value for name, value in summary.probe.items()}
    numbers = {**summary.totals, **probe}
    return facts | {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
