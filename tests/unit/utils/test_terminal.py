"""What a command prints may be lost; its work and its exit code are the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

WORK = """
import sys
from pathlib import Path
from rich.console import Console
from rich.progress import Progress
from prism_ssl.utils.terminal import failsafe_output

def main():
    with failsafe_output():
        console, errors = Console(), Console(stderr=True)
        for line in range(500):
            console.print("\u2500" * 40, line)
            errors.print(line)
        sys.stdout.flush()
        with Progress(console=Console(force_terminal=True)) as progress:
            progress.update(progress.add_task("x", total=1), advance=1)
        with Path(sys.argv[1]).open("w") as file:
            file.write(f"done {file.fileno()}")
        return 7

sys.exit(main())
"""


def _exit_code(tmp_path: Path, redirection: str, **environment: str) -> int:
    """Of the work in a shell that sends its output somewhere."""
    line = f'"$0" -c "$1" "$2" {redirection}'
    arguments = ["bash", "-c", line, sys.executable, WORK, str(tmp_path / "result")]
    return subprocess.run(arguments, timeout=60, env=os.environ | environment, check=False).returncode


@pytest.mark.parametrize(
    "redirection",
    [
        ">/dev/full 2>/dev/full",
        ">&- 2>&-",
        "<&- >&- 2>&-",
        "2>&1 | true; exit ${PIPESTATUS[0]}",
        "2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}",
    ],
)
def test_the_work_is_done_whatever_becomes_of_the_output(tmp_path: Path, redirection: str) -> None:
    assert _exit_code(tmp_path, redirection) == 7
    told = (tmp_path / "result").read_text()
    assert told.startswith("done ")
    assert int(told.split()[1]) > 2, "a file got the number of a standard stream"


def test_characters_that_the_terminal_does_not_know_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _exit_code(tmp_path, f">{out}", PYTHONIOENCODING="ascii") == 7
    assert "?" * 40 in out.read_text()
