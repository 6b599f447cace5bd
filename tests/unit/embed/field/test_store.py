"""What was put is there after a kill, what was torn is missing, and nothing is mixed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

from prism_ssl.embed.field.store import PointStore

TOLD = {"told": "a", "stamp": "b"}


def store(folder: Path, told: dict[str, str] = TOLD, points: int = 10) -> PointStore:
    return PointStore(folder / "scan", told, points, 3, 4)


def vectors(n: int, value: float) -> np.ndarray:
    return np.full((n, 3), value, np.float32)


def test_what_was_put_before_a_kill_is_there(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        dying = store(tmp_path)
        dying.put(0, vectors(4, 1.0))
        dying.put(2, vectors(2, 3.0))
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    again = store(tmp_path)
    assert again.missing() == [1]
    assert again.count([1, 2]) == 6
    assert again.vectors[:, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 3, 3]
    again.put(1, vectors(4, 0.0))  # zeros are an answer too
    assert store(tmp_path).missing() == []


def test_a_torn_chunk_is_missing(tmp_path: Path) -> None:
    first = store(tmp_path)
    for chunk, size in enumerate((4, 4, 2)):
        first.put(chunk, vectors(size, 1.0))
    first.vectors[5, 1] = 7.0  # half of a write
    assert store(tmp_path).missing() == [1]


def test_vectors_under_other_words_are_dropped(tmp_path: Path) -> None:
    store(tmp_path).put(0, vectors(4, 1.0))
    assert store(tmp_path).missing() == [1, 2]
    assert store(tmp_path, TOLD | {"stamp": "c"}).missing() == [0, 1, 2]
    store(tmp_path).remove()
    assert not (tmp_path / "scan").exists()
