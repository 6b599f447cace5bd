"""Two runs, a sweep and an embedding job that start at the same moment on one catalogue; one is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import polars as pl

from tests.soak.world import MARK, World
from tests.support.cli_runs import REPOSITORY, command

CELLS = ("b32-p16-w0.1-r2000-*", "b64-p24-w0.4-r5000-*")
"""Two of the sweep's 24."""
STARTS_MAX = 4
"""A job is given its command so many times before it counts as unable to end well."""
_LIMIT_S, _POLL_S, _KILLED_AFTER_S = 600.0, 0.2, (2.0, 45.0)

Check = Callable[[bool, str], None]


@dataclass
class Job:
    """A command, and the process that works on it now. Its output is added to ``log``."""

    name: str
    arguments: list[str]
    log: Path
    environment: dict[str, str]
    starts: int = 0
    codes: list[int] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Give the command once more."""
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, stdout=log, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )

    def poll(self) -> bool:
        """Whether it works; notes the exit code of one that has ended."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.codes.append(code)
            self.process = None
        return self.process is not None

    def kill(self) -> None:
        """SIGKILL to the driver alone, as the kernel does when memory is short."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=30)

    def kill_all(self) -> None:
        """SIGKILL to it and to all that it started in its session."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=30)


def keep_company(world: World, encoder: Path, number: int, rng: Random, check: Check) -> str:
    """Start all four on an archive that no preflight has seen, SIGKILL one, and give commands again until all is well.

    Args:
        encoder: a folder with an exported encoder.
        number: names this meeting's runs and files.
        check: is told what is right or wrong.

    Returns:
        What happened, in one line.
    """
    root = world.root / f"company-{number}"
    jobs = _jobs(world, root, encoder)
    began, victim = time.monotonic(), rng.choice(jobs)
    kill_at = began + rng.uniform(*_KILLED_AFTER_S)
    for job in jobs:
        job.start()
    killed_s: float | None = None
    while time.monotonic() - began < _LIMIT_S:
        if killed_s is None and time.monotonic() >= kill_at:
            killed_s = time.monotonic() - began
            victim.kill()
        working = [job.poll() for job in jobs]
        for job in jobs:
            if job.process is None and job.codes[-1] != 0 and job.starts < STARTS_MAX:
                job.start()
                working.append(True)
        if not any(working):
            break
        time.sleep(_POLL_S)
    for job in jobs:
        expected = [-signal.SIGKILL, 0] if job is victim and killed_s is not None and len(job.codes) > 1 else [0]
        check(
            job.codes == expected, f"company {number}: {job.name} ended with {job.codes}, not {expected}: {_end(job)}"
        )
        job.kill_all()
    _judge(world, root, number, check)
    shutil.rmtree(root, ignore_errors=True)
    told = "nothing was killed" if killed_s is None else f"{victim.name} killed after {killed_s:.0f} s"
    return f"{told}; all four ended well after {time.monotonic() - began:.0f} s"


def _jobs(world: World, root: Path, encoder: Path) -> list[Job]:
    root.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "WANDB_"))}
    environment |= {MARK: str(world.root)}
    places = {"run__root": root / "runs", "run__tmp_root": world.root / "tmp", "data__catalog_path": world.catalog}
    sweep = [sys.executable, str(REPOSITORY / "tune" / "tune_core24.py"), "--scale", "smoke", "--max-steps", "12"]
    sweep += ["--only", *CELLS, "--run.root", str(root / "runs"), "--run.tmp-root", str(world.root / "tmp")]
    sweep += ["--data.catalog-path", str(world.catalog)]
    embed = [
        sys.executable,
        "-m",
        "prism_ssl.embed.command",
        "--catalog",
        str(world.catalog),
        "--checkpoint",
        str(encoder),
    ]
    embed += ["--out", str(root / "embeddings.parquet"), "--views", "2"]
    embed += ["--tmp-root", str(world.root / "tmp")]
    commands = {
        "run a": command(root, run__name="a", train__max_steps=60, **places),
        "run b": command(root, run__name="b", train__max_steps=60, **places),
        "sweep": sweep,
        "embed": embed,
    }
    return [Job(name, line, root / f"{name}.log", environment) for name, line in commands.items()]


def _judge(world: World, root: Path, number: int, check: Check) -> None:
    """Every scan has its verdict and its embedding, and nothing is left on the machine."""
    scans = len(world.scans)
    for manifest in (root / "runs" / ".preflight").glob("*/manifest.parquet"):
        rows = pl.read_parquet(manifest, glob=False).filter(pl.col("reason").is_null()).height
        check(rows == scans, f"company {number}: {rows} of {scans} scans have a verdict in {manifest}")
    table = root / "embeddings.parquet"
    embedded = pl.read_parquet(table, glob=False).height if table.exists() else 0
    check(embedded == scans, f"company {number}: {embedded} of {scans} scans are embedded")
    for left in world.left_behind():
        check(False, f"company {number}: left behind: {left}")


def _end(job: Job) -> str:
    return job.log.read_text()[-600:].replace("\n", " / ")
