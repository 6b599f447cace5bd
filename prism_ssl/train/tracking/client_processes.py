"""The W&B client's own process outlives the Python process that it served, and still has something to say."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil

from prism_ssl.utils.machine import started_ticks
from prism_ssl.utils.wandb_paths import wandb_environment


def wait_for_clients(tmp_root: Path, patience_s: float) -> None:
    """Wait until those of this process's runs have sent what they hold; what takes longer is killed.

    Otherwise the summary of a killed worker would arrive after the end that is told in its place, and replace it.
    Those that another project, another job or an earlier command has left are none of ours: they write to another
    folder than the one below ``tmp_root``, or were started before this process was.
    """
    orphans = [process for process in psutil.process_iter() if _serves_the_dead(process, tmp_root)]
    _, alive = psutil.wait_procs(orphans, timeout=patience_s)
    for orphan in alive:
        with contextlib.suppress(psutil.Error):
            orphan.kill()


def _serves_the_dead(process: psutil.Process, tmp_root: Path) -> bool:
    """Whether it is a client's process of one of our runs whose Python process (``--pid``) is gone."""
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
    """Whether the process is over that started the client; a younger one may have its number by now."""
    try:
        served, started = psutil.Process(process_id), started_ticks(process_id)
        return bool(served.status() == psutil.STATUS_ZOMBIE or started is None or started > client_started)
    except psutil.NoSuchProcess:
        return True
