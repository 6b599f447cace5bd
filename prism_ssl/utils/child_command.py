"""A command of this project as a child process that gets its parent's stop signals, and stops when the parent dies."""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from prism_ssl.utils.stop_signals import heeded_stop_signals

_POLL_S = 0.2
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def run_child(module: str, arguments: Sequence[str]) -> tuple[int, bool]:
    """Run ``python -m module`` to its end; returns its exit code, and whether a stop signal came meanwhile.

    Each stop signal to this process is passed on once. The child is in a process group of its own, so that a terminal's
    Ctrl-C reaches it by this process only; it reads nothing from the terminal. If this process dies, even by SIGKILL,
    Linux sends the child SIGTERM. Call it in the main thread.
    """
    came, passed_on = list[int](), 0
    before = {each: signal.signal(each, lambda number, _: came.append(number)) for each in heeded_stop_signals()}
    try:
        words = [sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0)
        while (code := child.poll()) is None:  # as long as it takes
            for number in came[passed_on:]:
                child.send_signal(number)
                passed_on += 1
            time.sleep(_POLL_S)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    return code, bool(came)


def stop_with_parent(parent: int) -> None:
    """Ask for SIGTERM when the process ``parent``, which started this one, dies; at once if it is dead already.

    Only Linux can do that; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    _, _parent, _module, *_arguments = sys.argv
    stop_with_parent(int(_parent))
    sys.argv = [_module, *_arguments]
    runpy.run_module(_module, run_name="__main__", alter_sys=True)
