"""Background jobs, such as uploads, that no training step waits for; their errors are kept."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread


class BackgroundWork:
    """Runs one job at a time in its own thread; errors of jobs are kept until ``errors`` is called."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: Thread | None = None
        self._errors: list[str] = []

    def offer(self, job: Callable[[], None]) -> bool:
        """Start ``job``; False, without starting it, while the previous job is running."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._thread = Thread(target=self._run, args=(job,), name=self._name, daemon=True)
        self._thread.start()
        return True

    def errors(self) -> list[str]:
        """Class and text of the errors that jobs raised since the last call."""
        errors, self._errors = self._errors, []
        return errors

    def wait(self, timeout_s: float) -> bool:
        """Wait for the running job; False when it is not done in time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001  edge of a thread: kept for errors()
            self._errors.append(f"{type(error).__name__}: {error}")
