"""Which ends of a run leave weights that are worth a checkpoint."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from prism_ssl import errors
from prism_ssl.errors import PrismError, RunInterrupted
from prism_ssl.train.run.endings import error_file, errors_into, leaves_good_weights, status_after, write_traceback

DELIBERATE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PrismError)]
NOT_SAVED = {"RunFolderError", "PeerLost"}
"""A checkpoint is what could not be written; a checkpoint needs the words of all workers."""


def _raised(kind: type[BaseException]) -> BaseException:
    return kind.__new__(kind, "arranged")


@pytest.mark.parametrize("kind", [*DELIBERATE, OSError, KeyError, RuntimeError, MemoryError, torch.OutOfMemoryError])
def test_every_error_between_two_steps_leaves_good_weights_but_two(kind: type[BaseException]) -> None:
    assert leaves_good_weights(_raised(kind), update_is_whole=True) == (kind.__name__ not in NOT_SAVED)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_asks_to_end_at_once_is_not_kept_waiting(kind: type[BaseException]) -> None:
    assert not leaves_good_weights(_raised(kind), update_is_whole=True)


@pytest.mark.parametrize("kind", [*DELIBERATE, RuntimeError])
def test_weights_that_were_being_changed_are_not_saved(kind: type[BaseException]) -> None:
    assert not leaves_good_weights(_raised(kind), update_is_whole=False)


def test_only_what_was_asked_for_is_an_interruption() -> None:
    assert [status_after(error) for error in (RunInterrupted("asked"), OSError("not"))] == ["interrupted", "failed"]


def test_a_part_of_an_end_that_fails_is_said_in_one_line_and_the_next_part_happens() -> None:
    def fail(error: Exception) -> None:
        raise error

    notes: list[str] = []
    for error in (
        RuntimeError("CUDA error: an illegal memory access\nCompile with ..."),
        RunInterrupted("asked to stop"),
    ):
        with errors_into(notes):
            fail(error)
    assert notes == ["RuntimeError: CUDA error: an illegal memory access", "asked to stop"]


def test_a_traceback_is_written_for_errors_that_nobody_foresaw_alone(tmp_path: Path) -> None:
    write_traceback(RunInterrupted("asked"), tmp_path, 0)
    assert not error_file(tmp_path, 0).exists()
    write_traceback(KeyError("never thought of"), tmp_path, 0)
    assert "KeyError: 'never thought of'" in error_file(tmp_path, 0).read_text()
    write_traceback(KeyError("again"), tmp_path / "gone", 0)
