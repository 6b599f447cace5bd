"""Stop signals of a command from its first moment on: SIGTERM, SIGUSR1 and Ctrl-C interrupt it, with exit code 75.

Needs nothing but the standard library, so that a command can ask for it before it imports anything else.
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
"""Exit code of a command that may simply be given again: EX_TEMPFAIL of sysexits.h."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
NOTHING_BEGAN = "interrupted before anything began; the same command begins it"

_POLL_S = 0.5
_asked = threading.Event()


def leave_on_stop_signals() -> None:
    """From now on a stop signal ends the process at once; for the time in which there is nothing yet to clean up."""
    for number in _heeded():
        signal.signal(number, _leave)


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """While the block lasts, the first stop signal raises ``KeyboardInterrupt`` in the main thread.

    Those that follow find it on its way out and are ignored, but for a second Ctrl-C, which raises again. Outside
    the main thread, where handlers cannot be set, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    before = {number: signal.signal(number, _interrupt) for number in _heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A command that has done its work leaves by its own exit code.
            signal.signal(number, _ignore if handler is _leave else handler)


def note_stop() -> None:
    """For handlers of other modules: a stop signal has come."""
    _asked.set()


def stop_was_asked() -> bool:
    """Whether a stop signal has come since ``stop_signals_interrupt`` was last entered, ignored ones included."""
    return _asked.is_set()


def leave(code: int) -> NoReturn:
    """End a command that has cleaned up, with this exit code.

    After an interruption the interpreter's own end is left out: threads of libraries that were cut off in the middle
    can crash there (Ray's did, in preflight: SIGSEGV in place of 75).
    """
    if code == EXIT_INTERRUPTED:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # full, closed, or none
                stream.flush()
        os._exit(code)
    sys.exit(code)


def ignore_stop_signals() -> None:
    """The result is written, and what is left takes seconds: from now on only Ctrl-C cuts it short."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(number) is _interrupt:
                signal.signal(number, _ignore)


@contextmanager
def stop_file_interrupts(path: Path) -> Iterator[None]:
    """While the block lasts, a file that appears at ``path`` is to the main thread what SIGTERM is."""
    over, main = threading.Event(), threading.main_thread().ident
    assert main is not None

    def watch() -> None:
        while not over.wait(_POLL_S):
            if path.exists():
                # To the main thread itself: so it leaves a system call in which it waits.
                signal.pthread_kill(main, signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, name="stop-file", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2 * _POLL_S)


def _heeded() -> list[signal.Signals]:
    """A signal that the command was started to ignore, as Ctrl-C by a shell's ``&``, stays ignored."""
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
    """Not ``SIG_IGN``, which processes started from now on would inherit."""
    note_stop()
