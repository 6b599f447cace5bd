"""Stop signals: SIGTERM, SIGUSR1 and Ctrl-C interrupt a command, which exits with code 75.

Needs only the standard library, so that a command can install it before it imports anything else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 75
"""Exit code of a command that resumes when it is run again: EX_TEMPFAIL of sysexits.h."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NOTHING_BEGAN = "interrupted before anything started; run the same command again"

_POLL_S = 0.5
_asked = threading.Event()


def leave_on_stop_signals() -> None:
    """From now on a stop signal ends the process at once; for use while there is nothing to clean up yet."""
    for number in heeded_stop_signals():
        signal.signal(number, _leave)


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Inside the block, the first stop signal raises ``KeyboardInterrupt`` in the main thread.

    Later ones are ignored, except a second Ctrl-C, which raises again. Does nothing outside the main thread, where
    handlers cannot be set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    before = {number: signal.signal(number, _interrupt) for number in heeded_stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A command that has finished its work exits with its own code.
            signal.signal(number, _ignore if handler is _leave else handler)


def note_stop() -> None:
    """Record that a stop signal has arrived; for handlers of other modules."""
    _asked.set()


def stop_was_asked() -> bool:
    """Whether a stop signal has arrived since ``stop_signals_interrupt`` was last entered, ignored ones included."""
    return _asked.is_set()


def leave(code: int) -> NoReturn:
    """Exit with this code, after the command has cleaned up.

    After an interruption this skips the interpreter's own shutdown, in which interrupted library threads can crash
    (Ray's did, in preflight: SIGSEGV instead of 75).
    """
    if code == EXIT_INTERRUPTED:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # full, closed, or None
                stream.flush()
        os._exit(code)
    sys.exit(code)


def ignore_stop_signals() -> None:
    """Ignore SIGTERM and SIGUSR1 from now on, so that only Ctrl-C interrupts what is left of the command."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, _ignore)


@contextmanager
def stop_file_interrupts(path: Path) -> Iterator[None]:
    """Inside the block, a file that appears at ``path`` acts on the main thread like SIGTERM."""
    over, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def watch() -> None:
        while not over.wait(_POLL_S):
            if path.exists():
                # Sent to the main thread itself, so that it leaves a blocking system call.
                signal.pthread_kill(main, signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, name="stop-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2 * _POLL_S)


def heeded_stop_signals() -> list[signal.Signals]:
    """Stop signals to handle; one that was ignored at the start, as Ctrl-C under a shell's ``&``, stays ignored."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def _leave(_number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"{NOTHING_BEGAN}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    note_stop()
    ignore_stop_signals()
    raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Ignore a stop signal without ``SIG_IGN``, which child processes would inherit."""
    note_stop()
