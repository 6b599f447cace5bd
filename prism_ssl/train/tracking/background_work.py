"""Background jobs, such as uploads, that no training step waits for; their errors are kept."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, Thread

Job = Callable[[], None]


class BackgroundWork:
    """Runs one job at a time in its own thread; of the jobs offered meanwhile the newest waits its turn.

    Errors of jobs are kept until ``errors`` is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = Lock()
        self._thread: Thread | None = None
        self._at_work = False
        self._waiting: tuple[Job, Job] | None = None
        self._errors: list[str] = []

    def offer(self, job: Job, release: Job) -> None:
        """Start ``job``, or let it wait for the running one in place of any that waits.

        ``release`` is called in place of ``job`` if a newer one replaces it.
        """
        with self._lock:
            replaced = self._waiting
            if self._at_work:
                self._waiting = job, release
            else:
                self._at_work = True
                self._thread = Thread(target=self._run, args=(job,), name=self._name, daemon=True)
                self._thread.start()
        if replaced is not None:
            replaced[1]()

    def errors(self) -> list[str]:
        """Class and text of the errors that jobs raised since the last call."""
        errors, self._errors = self._errors, []
        return errors

    def wait(self, timeout_s: float) -> bool:
        """Wait for the running job and the waiting one; False when they are not done in time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, job: Job | None) -> None:
        while job is not None:
            try:
                job()
            except Exception as error:  # noqa: BLE001  edge of a thread: kept for errors()
                self._errors.append(f"{type(error).__name__}: {error}")
            job = self._next()

    def _next(self) -> Job | None:
        with self._lock:
            waiting, self._waiting = self._waiting, None
            self._at_work = waiting is not None
            return waiting[0] if waiting else None
