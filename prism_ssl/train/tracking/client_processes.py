"""Wait for W&B client processes that outlive the Python process they served and still send its rows."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from prism_ssl.utils.machine import started_ticks
from prism_ssl.utils.wandb_paths import wandb_environment


def wait_for_clients(tmp_root: Path, patience_s: float) -> None:
    """Wait until the clients of this process's dead workers have sent their rows; kill those that take longer.

    Otherwise the summary of a killed worker would arrive after the one written in its place, and replace it. Clients of
    other projects, other jobs and earlier commands are left alone: they write to another folder than the one below
    ``tmp_root``, or started before this process.
    """
    orphans = [process for process in psutil.process_iter() if _serves_the_dead(process, tmp_root)]
    _, alive = psutil.wait_procs(orphans, timeout=patience_s)
    for orphan in alive:
        with contextlib.suppress(psutil.Error):
            orphan.kill()


def _serves_the_dead(process: psutil.Process, tmp_root: Path) -> bool:
    """Whether the process is a W&B client of one of our runs, and its Python process (``--pid``) is gone."""
    try:
        command = process.cmdline()
        if process.uids().real != os.getuid() or not command or Path(command[0]).name != "wandb-core":
            return False
        ours = process.environ().get("WANDB_DIR") == wandb_environment(tmp_root)["WANDB_DIR"]
        started, this_one = started_ticks(process.pid), started_ticks(os.getpid())
        if not ours or started is None or this_one is None or started <= this_one:
            return False
        return _is_gone(int(command[command.index("--pid") + 1]), started)
    except (psutil.Error, ValueError, IndexError):
        return False


def _is_gone(process_id: int, client_started: int) -> bool:
    """Whether the process that started the client has ended; a younger process may have its id by now."""
    try:
        served, started = psutil.Process(process_id), started_ticks(process_id)
        return bool(served.status() == psutil.STATUS_ZOMBIE or started is None or started > client_started)
    except psutil.NoSuchProcess:
        return True
