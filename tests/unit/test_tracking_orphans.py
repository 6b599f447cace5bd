"""Only client processes whose Python process is gone are waited for, and ended when they do not end."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from prism_ssl.train.tracking_orphans import let_orphans_finish

Client = subprocess.Popen[bytes]


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[tuple[Client, Client]]:
    """Two processes named as the client's, of a Python process that is gone and of one that lives."""
    name = tmp_path / "wandb-core"
    sleep = shutil.which("sleep")
    assert sleep is not None
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    # exec -a: the name and the arguments of a process are what it was called with
    started = [
        subprocess.Popen(["bash", "-c", f"exec -a {name} bash -c 'read' wandb-core --pid {pid}"], stdin=subprocess.PIPE)
        for pid in (done.pid, living.pid)
    ]
    for process in started:
        while psutil.Process(process.pid).cmdline()[:1] != [str(name)]:
            pass  # not there yet
    yield started[0], started[1]
    for process in (*started, living):
        process.kill()
        process.communicate()


def test_the_orphan_is_ended_and_the_other_one_left_alone(clients: tuple[Client, Client]) -> None:
    orphan, other = clients
    let_orphans_finish(patience_s=0.2)
    assert orphan.wait(timeout=10) != 0
    assert other.poll() is None
