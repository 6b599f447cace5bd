"""A child command gets each stop signal of its parent once, and is asked to stop when its parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from prism_ssl.utils.stop_signals import STOP_SIGNALS

CHILD = """
import os, signal, sys
came = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, _: came.append(number))
print("ready", os.getpid(), *sys.argv[1:], flush=True)
while signal.SIGTERM not in came:
    signal.sigtimedwait([], 0.05)
print(*map(int, came), flush=True)
sys.exit(75)
"""
PARENT = """
import sys
from prism_ssl.utils.child_command import run_child
print("result", *run_child("noting_child", ["--an", "option"]), flush=True)
"""


@contextmanager
def _pair(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A parent in a process group of its own, and the process id of its child, which waits for SIGTERM."""
    (folder / "noting_child.py").write_text(CHILD)
    paths = os.pathsep.join([str(folder), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, process_group=0,
        env=os.environ | {"PYTHONPATH": paths},
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        ready, child, *arguments = parent.stdout.readline().split()
        assert (ready, arguments) == ("ready", ["--an", "option"])
        try:
            yield parent, int(child)
        except BaseException:
            parent.kill()
            with suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
            raise


def _told(parent: subprocess.Popen[str]) -> list[str]:
    return parent.communicate(timeout=60)[0].splitlines()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_to_the_parent_alone_reaches_the_child(tmp_path: Path, number: signal.Signals) -> None:
    with _pair(tmp_path) as (parent, _):
        parent.send_signal(number)
        if number != signal.SIGTERM:
            parent.send_signal(signal.SIGTERM)
        came = sorted({int(number), int(signal.SIGTERM)})
        assert _told(parent) == [" ".join(map(str, came)), "result 75 True"]


def test_a_terminals_ctrl_c_reaches_the_child_once(tmp_path: Path) -> None:
    with _pair(tmp_path) as (parent, _):
        os.killpg(parent.pid, signal.SIGINT)  # what a terminal does
        parent.send_signal(signal.SIGTERM)
        assert _told(parent) == [f"{int(signal.SIGINT)} {int(signal.SIGTERM)}", "result 75 True"]


def test_a_killed_parent_leaves_no_child_behind(tmp_path: Path) -> None:
    with _pair(tmp_path) as (parent, _):
        parent.kill()
        assert _told(parent) == [str(int(signal.SIGTERM))]  # to its end: no process holds the pipe


def test_a_child_whose_parent_died_before_it_could_ask_stops_at_once() -> None:
    program = f"from prism_ssl.utils.child_command import stop_with_parent as ask; ask({os.getpid()}); print(0)"
    grandchild = [sys.executable, "-c", program]
    line = [sys.executable, "-c", f"import subprocess, sys; sys.exit(subprocess.run({grandchild!r}).returncode)"]
    done = subprocess.run(line, capture_output=True, check=False, timeout=60)
    assert (done.returncode & 0xFF, done.stdout) == (-signal.SIGTERM & 0xFF, b"")
