"""A stop signal interrupts a command in every phase: at once, or by an exception that lets it clean up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from prism_ssl.utils.stop_signals import (
    EXIT_INTERRUPTED,
    NOTHING_BEGAN,
    STOP_SIGNALS,
    ignore_stop_signals,
    stop_file_interrupts,
    stop_signals_interrupt,
)

EARLY = """
from prism_ssl.utils.stop_signals import leave_on_stop_signals
leave_on_stop_signals()
print(flush=True)
input()
"""


@pytest.fixture(autouse=True)
def usual_answers() -> Iterator[None]:
    """Python's own answer to Ctrl-C, whatever an earlier test's Ray has left in its place."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _ended(number: signal.Signals, begun_by: str) -> tuple[int, str]:
    """Exit code and words of a process that gets the signal before it has begun anything."""
    line = ["bash", "-c", f'{begun_by} "$0" -c "$1"', sys.executable, EARLY]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        if begun_by.startswith("trap"):
            process.send_signal(signal.SIGTERM)
        _, words = process.communicate(timeout=30)
    return process.returncode, words.decode()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_before_anything_began_the_command_ends_at_once_and_says_so(number: signal.Signals) -> None:
    assert _ended(number, "exec") == (EXIT_INTERRUPTED, f"{NOTHING_BEGAN}\n")


def test_ctrl_c_stays_ignored_where_the_command_was_started_to_ignore_it() -> None:
    assert _ended(signal.SIGINT, "trap '' INT; exec") == (EXIT_INTERRUPTED, f"{NOTHING_BEGAN}\n")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_interrupts_and_only_ctrl_c_does_so_again(number: signal.Signals) -> None:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    cleaned_up = False
    with stop_signals_interrupt():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        cleaned_up = True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert cleaned_up
    assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before


def test_once_the_result_is_written_only_ctrl_c_cuts_the_end_short() -> None:
    with stop_signals_interrupt():
        ignore_stop_signals()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_stop_file_interrupts_a_main_thread_that_waits(tmp_path: Path) -> None:
    waiting, never = Event(), Event()

    def ask() -> None:
        waiting.wait(10)
        (tmp_path / "stop").touch()

    asking = Thread(target=ask)
    asking.start()
    with stop_signals_interrupt(), stop_file_interrupts(tmp_path / "stop"):
        waiting.set()
        with pytest.raises(KeyboardInterrupt):
            never.wait(30)
    asking.join(10)


def test_a_stop_file_that_never_comes_changes_nothing(tmp_path: Path) -> None:
    with stop_signals_interrupt(), stop_file_interrupts(tmp_path / "stop"):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "ended"), [(EXIT_INTERRUPTED, EXIT_INTERRUPTED), (0, -signal.SIGABRT)])
def test_an_interrupted_command_keeps_its_exit_code_whatever_its_interpreter_would_die_of(
    code: int, ended: int
) -> None:
    program = (
        "import atexit, os; from prism_ssl.utils.stop_signals import leave; atexit.register(os.abort); "
        f"print('said', end=''); leave({code})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert result.returncode == ended
    assert result.stdout == b"said" or code == 0
