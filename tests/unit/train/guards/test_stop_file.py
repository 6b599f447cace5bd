"""A signal becomes a file, for the block's length and for nobody else."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from prism_ssl.train.guards.stop_file import sigusr1_asks_to_stop, stop_file_of


def test_the_signal_makes_the_request_and_the_block_takes_it_back(tmp_path: Path) -> None:
    before, path = signal.getsignal(signal.SIGUSR1), tmp_path / "stop"
    with sigusr1_asks_to_stop(path):
        assert not path.exists()
        signal.raise_signal(signal.SIGUSR1)
        assert path.exists()
    assert not path.exists()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_request_that_somebody_else_made_outlives_the_block(tmp_path: Path) -> None:
    path = tmp_path / "stop"
    path.touch()
    with sigusr1_asks_to_stop(path):
        pass
    assert path.exists()


def test_outside_the_main_thread_signals_stay_as_they_are(tmp_path: Path) -> None:
    seen = []

    def trial() -> None:
        with sigusr1_asks_to_stop(tmp_path / "stop"):
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join(30)
    assert seen == [signal.getsignal(signal.SIGUSR1)]


def test_a_slurm_job_has_one_request_for_all_and_any_other_process_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert stop_file_of(tmp_path) == tmp_path / f"stop-{os.getpid()}"
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert stop_file_of(tmp_path) == tmp_path / "stop-4711"
