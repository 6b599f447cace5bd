"""The W&B client's own process outlives the Python process that it served, and still has something to say."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil


def let_orphans_finish(patience_s: float) -> None:
    """Wait until those of this user have sent what they hold; what takes longer is killed.

    Otherwise the summary of a killed worker would arrive after the end that is told in its place, and replace it.
    """
    orphans = [process for process in psutil.process_iter() if _serves_the_dead(process)]
    _, alive = psutil.wait_procs(orphans, timeout=patience_s)
    for orphan in alive:
        with contextlib.suppress(psutil.Error):
            orphan.kill()


def _serves_the_dead(process: psutil.Process) -> bool:
    """Whether it is a client's process of this user whose Python process (``--pid``) is gone."""
    try:
        command = process.cmdline()
        if process.uids().real != os.getuid() or not command or Path(command[0]).name != "wandb-core":
            return False
        return _is_gone(int(command[command.index("--pid") + 1]))
    except (psutil.Error, ValueError, IndexError):
        return False


def _is_gone(process_id: int) -> bool:
    try:
        return bool(psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
