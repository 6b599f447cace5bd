"""Watcher process that cleans up after a killed driver: Ray processes and temporary folders.

Ray's processes end with their driver, except its two agents, which stay forever when the cluster's head is gone (Ray
2.60). ``after_death`` starts this file as a script; it imports only the standard library (and ``fs`` once it cleans
up), so that it costs a few MB. It does nothing without /proc.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE

GRACE_S = 5.0
"""Time that processes have to end by themselves before they are killed."""

_ALL_IS_WELL = b"all is well"


@contextmanager
def after_death(folder: Path, tmp_root: Path) -> Iterator[None]:
    """If this process dies inside the block, end every process with a file open below ``folder``, remove the folder,
    and remove the folders of dead processes below ``tmp_root``.

    The same if the block is interrupted, which may leave Ray half started; this process itself is not killed then.
    """
    command = [sys.executable, "-I", "-S", __file__, str(folder), str(GRACE_S), str(tmp_root)]
    watcher = subprocess.Popen(command, stdin=PIPE, start_new_session=True)
    assert watcher.stdin is not None
    word, patience_s = b"", 3 * GRACE_S
    try:
        yield
        word, patience_s = _ALL_IS_WELL, GRACE_S
    except Exception:
        word, patience_s = _ALL_IS_WELL, GRACE_S
        raise
    finally:
        with suppress(OSError):  # the watcher itself was killed
            watcher.stdin.write(word)
            watcher.stdin.close()
        with suppress(subprocess.TimeoutExpired):  # a watcher that hangs does no harm
            watcher.wait(timeout=patience_s)


def processes_using(folder: Path, but: int | None = None) -> list[int]:
    """This user's processes that have a file open below ``folder``, deleted files included; without the process
    ``but``."""
    below = f"{folder}/"
    using = (int(process.name) for process in Path("/proc").glob("[0-9]*") if _has_open(process / "fd", below))
    return [process for process in using if process != but]


def _has_open(descriptors: Path, below: str) -> bool:
    try:
        return any(str(descriptor.readlink()).startswith(below) for descriptor in descriptors.iterdir())
    except OSError:  # it has ended meanwhile, or is another user's
        return False


def main(folder: Path, grace_s: float, tmp_root: Path | None) -> None:
    """Wait until the starter closes the pipe; if it wrote nothing before, it was killed: clean up."""
    for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, signal.SIG_IGN)  # a terminal's Ctrl-C is for the run, not for its watcher
    starter = os.getppid()
    if sys.stdin.buffer.read() == _ALL_IS_WELL:
        return
    deadline = time.monotonic() + grace_s
    while processes_using(folder, starter) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in processes_using(folder, starter):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    shutil.rmtree(folder, ignore_errors=True)
    if tmp_root is not None:
        _remove_folders_of_the_dead(tmp_root)


def _remove_folders_of_the_dead(tmp_root: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[3]))
    from prism_ssl.utils.fs import OWNED_BY_PROCESSES, remove_stale_folders

    for name in OWNED_BY_PROCESSES:
        remove_stale_folders(tmp_root / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
