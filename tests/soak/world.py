"""Environment of the soak test: a phantom archive, a tracking server, a command-line run and its processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from prism_ssl.data.phantoms.writer import write_phantoms
from prism_ssl.utils.fs import OWNED_BY_PROCESSES
from tests.support.cli_runs import command
from tests.support.shared_memory import abandoned_memory
from tests.support.wandb_server import WandbServer

LOG_EVERY, CHECKPOINT_EVERY = 20, 50
MARK = "PRISM_SOAK"
_POLL_S, _SAMPLE_S, _END_S = 0.2, 2.0, 60.0


@dataclass
class Sample:
    """What a process holds at a moment."""

    at_s: float
    rss_bytes: int
    descriptors: int
    threads: int


@dataclass
class World:
    """Everything below ``root``; nothing else on the machine is touched."""

    root: Path
    server: WandbServer
    subjects: int = 24
    started_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.archive, self.elsewhere = self.root / "volume" / "archive", self.root / "elsewhere"
        self.catalog = write_phantoms(self.archive, n_subjects=self.subjects, seed=0)
        self.shared_memory = abandoned_memory()

    @property
    def scans(self) -> list[Path]:
        """Files of the archive."""
        return sorted(self.archive.rglob("*.nii.gz"))

    def unmount(self) -> None:
        """The volume is away."""
        self.archive.parent.rename(self.elsewhere)

    def mount(self) -> None:
        """The volume is back."""
        if self.elsewhere.exists():
            self.elsewhere.rename(self.archive.parent)

    def forget_quarantine(self) -> None:
        """The scans that were damaged have been restored."""
        for path in self.root.glob("runs/.preflight/*/quarantine.jsonl"):
            path.unlink()

    def left_behind(self) -> list[str]:
        """What a run that has ended left on the machine, after the time that its cleaners have."""
        end = time.monotonic() + _END_S
        while (processes := _marked(str(self.root))) and time.monotonic() < end:
            time.sleep(_POLL_S)
        told = [f"process {process.pid} {' '.join(process.cmdline())[:80]}" for process in processes]
        told += [f"shared memory {path}" for path in abandoned_memory() - self.shared_memory]
        transient = self.root / "tmp" / "prism_ssl"
        told += [f"folder {path}" for name in OWNED_BY_PROCESSES for path in transient.glob(f"{name}/*")]
        return told


class SoakRun:
    """One start of the command; polled, never waited for without a limit. Its processes are sampled meanwhile."""

    def __init__(self, world: World, name: str, **overrides: Any) -> None:
        self._world = world
        self.folder = world.root / "runs" / name
        settings: dict[str, Any] = {
            "data__catalog_path": world.catalog, "data__use_local_scratch": False, "data__open_timeout_s": 3,
            "data__max_actor_restarts": 1000, "data__abort_broken_share": 0.9, "tracking__mode": "online",
            "tracking__finish_timeout_s": 20, "tracking__artifact_every": 500, "train__log_every": LOG_EVERY,
            "train__checkpoint_every": CHECKPOINT_EVERY, "train__max_worker_restarts": 0, "run__name": name,
        }  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= world.server.environment(world.root / "wandb") | {MARK: str(world.root)}
        self._log = (world.root / "output.log").open("a")
        self.before = self.steps
        self.process = psutil.Popen(
            command(world.root, **(settings | overrides)), stdout=self._log, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.samples: dict[tuple[str, int], list[Sample]] = defaultdict(list)
        self._sampled_s = 0.0

    # ------------------------------------------------------------------ what the run tells
    @property
    def rows(self) -> list[dict[str, Any]]:
        """Whole lines of history.jsonl."""
        return rows_of(self.folder)

    @property
    def steps(self) -> list[int]:
        """Steps of the rows of training scalars."""
        return steps_of(self.folder)

    @property
    def last_row(self) -> dict[str, Any]:
        """The newest row of training scalars."""
        return next((row for row in reversed(self.rows) if "loss/total" in row), {"global_step": 0})

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    # ------------------------------------------------------------------ doing
    def wait_until(self, what: str, condition: Callable[[], bool], limit_s: float) -> bool:
        """False when the limit was over, or the run, before ``condition`` was met."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if condition():
                return True
            if self.process.poll() is not None:
                return condition()
            self._sample()
            time.sleep(_POLL_S)
        print(f"  not within {limit_s:.0f} s: {what}", flush=True)
        return False

    def descendants(self, name: str) -> list[psutil.Process]:
        """Living processes of the run whose title has ``name``."""
        return [process for process in self._processes() if name in _title(process)]

    def send(self, number: signal.Signals) -> None:
        """A signal to the driver alone."""
        self.process.send_signal(number)

    def end(self, limit_s: float = 180.0) -> int:
        """The exit code; a run that does not end in time is killed and counts as -1."""
        self.wait_until("the end of the run", lambda: self.process.poll() is not None, limit_s)
        self._log.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)
            return -1
        return int(self.process.returncode)

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self.process, *self.process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _sample(self) -> None:
        now = time.monotonic()
        if now - self._sampled_s < _SAMPLE_S:
            return
        self._sampled_s = now
        for process in self._processes():
            title = _title(process)
            kind = next((kind for kind in ("PoolActor", "TrainWorker", "train_single.py") if kind in title), None)
            try:
                if kind is not None:
                    memory = process.memory_full_info().uss
                    sample = Sample(now - self._world.started_s, memory, process.num_fds(), process.num_threads())
                    self.samples[kind, process.pid].append(sample)
            except psutil.Error:  # it has ended meanwhile
                continue


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of a run folder's history.jsonl."""
    path = folder / "history.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def steps_of(folder: Path) -> list[int]:
    """Steps of its rows of training scalars."""
    return [row["global_step"] for row in rows_of(folder) if "loss/total" in row]


def copy_of(path: Path) -> tuple[bytes, tuple[int, int]]:
    """Content and times of a file, for ``put_back``."""
    status = path.stat()
    return path.read_bytes(), (status.st_atime_ns, status.st_mtime_ns)


def put_back(path: Path, copy: tuple[bytes, tuple[int, int]]) -> None:
    """As if nothing had happened to it; by another file, because the damaged one may be open."""
    fresh = path.with_suffix(".fresh")
    fresh.write_bytes(copy[0])
    os.utime(fresh, ns=copy[1])
    fresh.replace(path)


def remove(world: World) -> None:
    """Everything that the soak made."""
    shutil.rmtree(world.root, ignore_errors=True)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _marked(value: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
