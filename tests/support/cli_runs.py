"""Runs of the command line as a user starts them: a process of its own, its output read as it comes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from prism_ssl.records.run_files import is_probe, read_history
from prism_ssl.utils.fs import OWNED_BY_PROCESSES

REPOSITORY = Path(__file__).parents[2]
_RAY_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")

LOST_DRIVER = ("running", "interrupted")
"""Status of a run whose driver was killed: Ray asks its workers to stop, then kills them; some have time to say so."""

_DETACHED = re.compile(r"Exception in thread|Exception ignored in|exception was never retrieved", re.IGNORECASE)
"""What Python prints of an error that nobody was there to hear."""

SMALL = {
    "data.n-patches": 16, "data.warm-pool-size": 3, "data.visits-per-scan": 6, "train.batch-size": 4,
    "train.log-every": 5, "train.checkpoint-every": 10, "data.stall-timeout-s": 60, "eval.views-per-scan": 2,
    "eval.place-pairs": 2, "eval.bootstrap": 100,
}  # fmt: skip
"""Settings under which a run takes seconds, replaces scans all the time, and evaluates little."""


def command(root: Path, **overrides: Any) -> list[str]:
    """The command of a small run below ``root``; keyword ``a__b_c`` is the option ``--a.b-c``."""
    settings = SMALL | {"run.root": root / "runs", "run.tmp-root": root / "tmp", "run.pictures": False}
    settings |= {key.replace("__", ".").replace("_", "-"): value for key, value in overrides.items()}
    flags = [part for key, value in settings.items() for part in _flag(key, value)]
    return [sys.executable, str(REPOSITORY / "tune" / "train_single.py"), "phantom-cpu", *flags]


def _flag(key: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        section, _, name = key.rpartition(".")
        return [f"--{section}.{name}" if value else f"--{section}.no-{name}"]
    return [f"--{key}", str(value)]


class CliRun:
    """A started command; ``lines`` holds what it has printed."""

    def __init__(self, arguments: list[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _RAY_VARIABLES}
        self._process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        self.lines: list[str] = []
        self._seen: dict[int, psutil.Process] = {}

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read on until a line matches; fails with the whole output when none does."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)
            if match := re.search(pattern, line):
                self.descendants()
                return match
        raise AssertionError(f"no line matches {pattern!r} in:\n{self.output}")

    def finish(self) -> int:
        """Read to the end; returns the exit code once every process that the run had started is gone."""
        assert self._process.stdout is not None
        self.lines += list(self._process.stdout)
        self._process.stdout.close()
        code = self._process.wait(timeout=60)
        _, alive = psutil.wait_procs(self._seen.values(), timeout=30)
        assert not alive, f"orphans: {[process.cmdline() for process in alive]}"
        assert not _DETACHED.search(self.output), self.output  # guide, section 15.1
        return code

    def descendants(self, name: str = "") -> list[psutil.Process]:
        """Living processes below the run whose command line has ``name``; remembered for ``finish``."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._seen |= {child.pid: child for child in children}
        return [child for child in children if any(name in part for part in _command_line(child))]

    def send(self, number: signal.Signals) -> None:
        """A signal to the driver alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the driver alone."""
        self.send(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM to the driver alone."""
        self._process.send_signal(signal.SIGTERM)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """All that was printed so far, without line breaks inside words."""
        return "".join(self.lines)


def _command_line(process: psutil.Process) -> list[str]:
    try:
        line: list[str] = process.cmdline()
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return []
    return line


def run_to_end(arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of a command."""
    run = CliRun(arguments)
    return run.finish(), run.output


def only_run(root: Path) -> Path:
    """The one run folder below ``root``."""
    (folder,) = (path for path in (root / "runs").iterdir() if not path.name.startswith("."))
    return folder


def left_in_temporary_root(root: Path) -> list[Path]:
    """What processes have left in the temporary root of ``command``."""
    transient = root / "tmp" / "prism_ssl"
    return [path for name in OWNED_BY_PROCESSES for path in transient.glob(f"{name}/*")]


def summary_of(root: Path) -> dict[str, Any]:
    """The summary of the one run below ``root``."""
    summary: dict[str, Any] = json.loads((only_run(root) / "summary.json").read_text())
    return summary


def history_of(root: Path) -> list[dict[str, Any]]:
    """The rows of training scalars of the one run below ``root``."""
    return [row for row in read_history(only_run(root)) if "event" not in row and not is_probe(row)]
