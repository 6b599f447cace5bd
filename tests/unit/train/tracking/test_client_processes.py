"""Only client processes of our own runs whose Python process is gone are waited for, and ended when they do not end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from prism_ssl.train.tracking.client_processes import wait_for_clients
from prism_ssl.utils.wandb_paths import wandb_environment

Client = subprocess.Popen[bytes]
StartClient = Callable[[int, dict[str, str]], Client]


@pytest.fixture
def start_client(tmp_path: Path) -> Iterator[StartClient]:
    """Starts a process named as the client's, which serves the Python process of a number, in an environment."""
    name = tmp_path / "wandb-core"
    started: list[Client] = []

    def start(served: int, environment: dict[str, str]) -> Client:
        # exec -a: the name and the arguments of a process are what it was called with
        line = f"exec -a {name} bash -c 'read' wandb-core --pid {served}"
        process = subprocess.Popen(["bash", "-c", line], stdin=subprocess.PIPE, env=dict(os.environ) | environment)
        started.append(process)
        while psutil.Process(process.pid).cmdline()[:1] != [str(name)]:
            pass  # not there yet
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def gone() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_orphan_of_our_own_run_is_ended_and_the_others_are_left_alone(
    tmp_path: Path, start_client: StartClient
) -> None:
    ours, job = tmp_path / "prism_ssl", tmp_path / "prism_ssl" / "4711"
    orphan = start_client(gone(), wandb_environment(ours))
    served = start_client(os.getpid(), wandb_environment(ours))
    elsewhere = [start_client(gone(), wandb_environment(job)), start_client(gone(), {"WANDB_DIR": "/tmp/other"})]
    wait_for_clients(ours, patience_s=0.2)
    assert orphan.wait(timeout=10) != 0
    assert [client.poll() for client in (served, *elsewhere)] == [None, None, None]


def test_an_orphan_that_an_earlier_command_has_left_is_none_of_this_ones(
    tmp_path: Path, start_client: StartClient
) -> None:
    orphan = start_client(gone(), wandb_environment(tmp_path))
    code = (
        "import sys; from pathlib import Path\n"
        "from prism_ssl.train.tracking.client_processes import wait_for_clients\n"
        "wait_for_clients(Path(sys.argv[1]), patience_s=0.2)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert orphan.poll() is None
