"""Work beside the training that a step never waits for, and whose errors are read."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread


class BackgroundWork:
    """One job at a time in a thread of its own; what a job raises is kept until ``errors`` is asked."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: Thread | None = None
        self._errors: list[str] = []

    def offer(self, job: Callable[[], None]) -> bool:
        """Begin ``job``; False, and nothing begun, while the one before is still at work."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = Thread(target=self._run, args=(job,), name=self._name, daemon=True)
        self._thread.start()
        return True

    def errors(self) -> list[str]:
        """Class and text of what jobs have raised since the last call."""
        errors, self._errors = self._errors, []
        return errors

    def wait(self, timeout_s: float) -> bool:
        """Wait for the job at work; False when it is not done in time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001  the edge of a thread: kept, and read by errors()
            self._errors.append(f"{type(error).__name__}: {error}")
