"""last.ckpt: training goes on bit by bit, and a damaged file is an error that says what to do."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.data.holdout import Split
from prism_ssl.errors import CheckpointError
from prism_ssl.train.checkpoint import (
    Checkpoint,
    checkpoint_step,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_checkpoint,
    verified_note,
    verify_checkpoint_file,
)
from prism_ssl.train.learner import Learner
from prism_ssl.train.resume.starting_point import starting_point
from prism_ssl.train.run.folder import RunFolder
from prism_ssl.utils.fs import FolderLock
from tests.support.model_batches import random_batch

CPU = torch.device("cpu")
ADVICE = "move it away to start at step 0, or pass --run.name for a new run"
READERS: list[Callable[[Path], Any]] = [
    verify_checkpoint_file,
    verified_note,
    lambda path: load_checkpoint(path, CPU),
]
CURSORS: list[dict[str, Any] | None] = [{"epoch": 1, "slots": [["scan-1", 3, 17]]}, None]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Two threads that share two busy cores with others wait for each other: 10 ms become 2 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _small(folder: Path) -> Path:
    learner = {"network": {"w": torch.arange(6.0)}, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}
    return save_checkpoint(folder, Checkpoint(3, learner, CURSORS, rng_state() | {"cpu": torch.zeros(4)}, "abc"))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same(left: Any, right: Any) -> None:
    """Equal in structure, and every tensor bit by bit."""
    if isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert torch.equal(_bits(left), _bits(right))
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def test_a_resumed_learner_goes_on_bit_by_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = Learner(phantom_cpu(), CPU)
    for step in range(2):
        whole.step(random_batch(seed=step), step)
    saved = Checkpoint(2, whole.state(), CURSORS, rng_state(), "abc")
    path = save_checkpoint(tmp_path, saved)
    draw = torch.rand(5)
    whole.step(random_batch(seed=2), 2)

    torch.manual_seed(99)
    resumed, loaded = Learner(phantom_cpu(), CPU), load_checkpoint(path, CPU)
    resumed.load_state(loaded.learner)
    restore_rng(loaded.rng)
    assert torch.equal(torch.rand(5), draw)
    resumed.step(random_batch(seed=2), 2)
    assert_same(resumed.state(), whole.state())
    assert (loaded.step, loaded.cursors, loaded.config_hash) == (2, CURSORS, "abc")


def test_everything_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(1)
    learner = Learner(phantom_cpu(), CPU)
    learner.step(random_batch(), 0)
    saved = Checkpoint(1, learner.state(), CURSORS, rng_state(), "abc")
    path = save_checkpoint(tmp_path, saved)
    verify_checkpoint_file(path)
    assert_same(vars(load_checkpoint(path, CPU)), vars(saved))
    assert checkpoint_step(path) == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_checkpoint_loaded_to_the_gpu_restores_the_generators(tmp_path: Path) -> None:
    torch.manual_seed(2)
    path = save_checkpoint(tmp_path, Checkpoint(1, {}, [], rng_state(), "abc"))
    draws = torch.rand(5), torch.rand(5, device="cuda")
    restore_rng(load_checkpoint(path, torch.device("cuda")).rng)
    assert_same((torch.rand(5), torch.rand(5, device="cuda")), draws)


@pytest.mark.parametrize("reader", READERS, ids=["verify", "note", "load"])
@pytest.mark.parametrize("damage", ["empty", "half", "last byte missing", "text", "zeros"])
def test_a_damaged_file_is_refused_with_its_path_and_advice(
    tmp_path: Path, damage: str, reader: Callable[[Path], Any]
) -> None:
    path = _small(tmp_path)
    raw = path.read_bytes()
    contents = {"empty": b"", "half": raw[: len(raw) // 2], "last byte missing": raw[:-1],
                "text": b"<html>quota exceeded</html>", "zeros": bytes(len(raw))}  # fmt: skip
    path.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))} .*{ADVICE}"):
        reader(path)


@pytest.mark.parametrize("reader", READERS, ids=["verify", "note", "load"])
def test_a_flipped_byte_is_refused_or_was_only_padding(tmp_path: Path, reader: Callable[[Path], Any]) -> None:
    path = _small(tmp_path)
    raw, wanted = path.read_bytes(), vars(load_checkpoint(path, CPU))
    refused = 0
    with path.open("r+b") as file:
        for position, byte in enumerate(raw):
            os.pwrite(file.fileno(), bytes([byte ^ 0xFF]), position)
            try:
                loaded = reader(path)
            except CheckpointError as error:
                refused += 1
                assert ADVICE in str(error)  # noqa: PT017  every one of 2,000
            else:
                if loaded is not None:
                    assert_same(vars(loaded), {name: wanted[name] for name in vars(loaded)})
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert refused > len(raw) / 3


def test_a_flipped_weight_is_refused_by_every_reader(tmp_path: Path) -> None:
    path = _small(tmp_path)
    raw = path.read_bytes()
    weight = torch.tensor([5.0]).numpy().tobytes()
    assert raw.count(weight) == 1
    path.write_bytes(raw.replace(weight, torch.tensor([4.0]).numpy().tobytes()))
    for reader in READERS:
        with pytest.raises(CheckpointError, match=f"is damaged: the checksum or the header of .* is wrong; {ADVICE}"):
            reader(path)


class Trap:
    """Pickles as a call; unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._path),)


def _bytes_read() -> int:
    """By this process so far; mapped pages are not among them."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what a process reads")
def test_a_step_is_told_without_reading_tensors_and_a_resume_reads_the_file_once(tmp_path: Path) -> None:
    split = {"training": {"p": ["s"]}, "held_out": {}, "proven": True}
    learner = {"network": {"w": torch.ones(4 * 2**20)}}
    path = save_checkpoint(tmp_path, Checkpoint(3, learner, CURSORS, rng_state(), "abc", split=split))
    size = path.stat().st_size
    start = _bytes_read()
    assert checkpoint_step(path) == 3
    told = _bytes_read()
    assert told - start < size / 8
    found = starting_point(RunFolder(tmp_path, path, FolderLock(tmp_path)), phantom_cpu())
    assert (found.step, found.checkpoint, found.split) == (3, path, Split.from_plain(split))
    assert size <= _bytes_read() - told < 1.25 * size


def test_a_step_is_the_one_that_was_written_or_refused(tmp_path: Path) -> None:
    path = _small(tmp_path)
    told = set[int]()
    with path.open("r+b") as file:
        for position, byte in enumerate(path.read_bytes()):
            os.pwrite(file.fileno(), bytes([byte ^ 0xFF]), position)
            with suppress(CheckpointError):
                told.add(checkpoint_step(path))
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert told == {3}


def test_a_damaged_tensor_stops_a_resume_and_not_the_word_of_its_step(tmp_path: Path) -> None:
    path = _small(tmp_path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(torch.arange(6.0).numpy().tobytes()) + 2] ^= 1
    path.write_bytes(raw)
    assert checkpoint_step(path) == 3
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))} is damaged: the checksum .*{ADVICE}"):
        starting_point(RunFolder(tmp_path, path, FolderLock(tmp_path)), phantom_cpu())


def test_a_checkpoint_that_pickles_code_is_refused_and_the_code_never_run(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"format": 1, "step": 1, "learner": {"network": Trap(tmp_path / "sprung")}}, path)
    with pytest.raises(CheckpointError, match=f"holds more than tensors and plain values.*{ADVICE}") as caught:
        load_checkpoint(path, CPU)
    assert not (tmp_path / "sprung").exists()
    assert "weights_only" not in str(caught.value)  # torch's own text advises to load it without the guard


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"format": 2, "step": 1}, "has another format"),
        ({"step": 1}, "KeyError"),
        ({"format": 1, "step": 1}, "TypeError: .* missing 4 required"),
        ([1, 2], "does not load"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} .*{found}.*; {ADVICE}"):
        load_checkpoint(path, CPU)


def test_a_save_that_dies_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = _small(tmp_path)
    unsaveable = Checkpoint(4, {"network": threading.Lock()}, CURSORS, rng_state(), "abc")
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        save_checkpoint(tmp_path, unsaveable)
    assert checkpoint_step(path) == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_in_the_middle_of_a_save_keeps_the_checkpoint_before(
    tmp_path: Path, stop: signal.Signals
) -> None:
    path = _small(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=_save_into_a_pipe, args=(tmp_path,))
    child.start()
    pipe = tmp_path / f".{path.name}.{child.pid}.tmp"
    while not pipe.exists():
        child.join(0.01)
        assert child.is_alive()
    with pipe.open("rb") as written:
        assert len(written.read(1000)) == 1000
        assert child.pid is not None
        os.kill(child.pid, stop)
        child.join(60)
    assert child.exitcode == -stop
    verify_checkpoint_file(path)
    assert checkpoint_step(path) == 3


def _save_into_a_pipe(folder: Path) -> None:
    """In a process of its own: a pipe in place of the unfinished file stops the writer until somebody reads."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray, where a test has started it, has a handler in this process
    os.mkfifo(folder / f".last.ckpt.{os.getpid()}.tmp")
    save_checkpoint(folder, Checkpoint(4, {"weight": torch.zeros(10**6)}, CURSORS, rng_state(), "abc"))
