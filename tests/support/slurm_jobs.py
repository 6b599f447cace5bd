"""A real one-node Slurm on the loopback, and jobs in it, for the tests of the job scripts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY

SLURM_LOCAL = REPOSITORY.parent / "shared" / "tools" / "slurm-local"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_POLL_S = 0.5


class Slurm:
    """The cluster; ``environment`` is what its clients need."""

    def __init__(self, folder: Path) -> None:
        self.environment = {**os.environ, "SLURM_LOCAL_DIR": str(folder), "SLURM_CONF": str(folder / "slurm.conf")}
        self.environment["PATH"] += ":/usr/sbin"
        if not SLURM_LOCAL.is_file():
            pytest.skip("../shared/tools/slurm-local is not on this machine")
        missing = [name for name in _PROGRAMS if shutil.which(name, path=self.environment["PATH"]) is None]
        if missing:
            pytest.skip(f"Slurm is not installed here ({', '.join(missing)}): apt-get install slurm-wlm munge")
        self.run(str(SLURM_LOCAL), "up")

    def down(self) -> None:
        """Stop its daemons and jobs."""
        self.run(str(SLURM_LOCAL), "down")

    def run(self, *command: str, **environment: str) -> str:
        """Output of a client; fails with it when the client does."""
        result = subprocess.run(
            command, env=self.environment | environment, capture_output=True, text=True, timeout=60, cwd=REPOSITORY,
            check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout


class Job:
    """A submitted job; ``root`` is its temporary folder, ``log`` its output so far."""

    def __init__(self, slurm: Slurm, output: Path, *arguments: str, environment: Mapping[str, str]) -> None:
        self._slurm, self._output = slurm, output
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        settings = {"PYTHONPATH": path, "PRISM_PYTHON": sys.executable, "PRISM_ALLOW_CPU": "1"}
        told = slurm.run("sbatch", "--parsable", f"--output={output}", *arguments, **(settings | dict(environment)))
        self.id = told.strip()
        self.root = Path("/tmp") / slurm.run("id", "-un").strip() / "prism_ssl" / self.id

    @property
    def log(self) -> str:
        """What the job has written."""
        return self._output.read_text() if self._output.exists() else ""

    def fact(self, name: str) -> str:
        """A field of ``scontrol show job``, such as JobState."""
        found = re.search(rf"\b{name}=(\S+)", self._slurm.run("scontrol", "show", "job", self.id))
        assert found is not None
        return found[1]

    def wait_for(self, pattern: str, limit_s: float = 300) -> re.Match[str]:
        """The first match in the log; fails with the log when the job ends or the time is over before."""
        self._until(lambda: re.search(pattern, self.log) is not None or not self.lives, limit_s)
        found = re.search(pattern, self.log)
        assert found is not None, f"no {pattern!r} in:\n{self.log}"
        return found

    def wait_for_file(self, path: Path, limit_s: float = 300, min_bytes: int = 1) -> Path:
        """A file that the job makes, once it has something in it."""
        self._until(lambda: (path.exists() and path.stat().st_size >= min_bytes) or not self.lives, limit_s)
        return path

    def finish(self, limit_s: float = 300) -> str:
        """The job's last state."""
        self._until(lambda: not self.lives, limit_s)
        return self.fact("JobState")

    @property
    def lives(self) -> bool:
        """Whether it runs, waits or is being ended."""
        return self.fact("JobState") in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")

    def reach_time_limit(self, left_s: int = 75) -> None:
        """Move the limit to ``left_s`` from now, or up to a minute later: Slurm counts it in whole minutes."""
        limit = -(-(self._seconds("RunTime") + left_s) // 60)
        self._slurm.run("scontrol", "update", f"JobId={self.id}", f"TimeLimit={limit}")

    def extend(self) -> None:
        """Give the job an hour again."""
        self._slurm.run("scontrol", "update", f"JobId={self.id}", "TimeLimit=60")

    def _seconds(self, fact: str) -> int:
        hours, minutes, seconds = map(int, self.fact(fact).split(":"))
        return (hours * 60 + minutes) * 60 + seconds

    def processes(self) -> list[int]:
        """Processes that were started by this job, wherever they are."""
        marks = (f"SLURM_JOB_ID={self.id}".encode(), f"SLURM_CONF={self._slurm.environment['SLURM_CONF']}".encode())
        return [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/environ") if _has(each, marks)]

    @contextmanager
    def standing_still(self, title: str) -> Iterator[None]:
        """The job's process with ``title`` takes no step meanwhile, however fast the machine is."""
        (process,) = [each for each in map(psutil.Process, self.processes()) if title in " ".join(each.cmdline())]
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def cancel(self) -> None:
        """As the user does."""
        self._slurm.run("scancel", self.id)

    def _until(self, condition: Callable[[], bool], limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, f"job {self.id} is {self.fact('JobState')} after {limit_s} s:\n{self.log}"
            time.sleep(_POLL_S)


def _has(environ: Path, marks: tuple[bytes, ...]) -> bool:
    try:
        variables = environ.read_bytes().split(b"\0")
    except OSError:
        return False
    return all(mark in variables for mark in marks)
