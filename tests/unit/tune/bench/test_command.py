"""``prism bench gpu`` refuses without a GPU; a tiny shape of it runs on a CPU, and its file can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from prism_ssl.config.defaults import phantom_cpu
from prism_ssl.model.capacity.flops import step_flops
from prism_ssl.model.capacity.measured import FeedRow, StepRow, read_bench, step_config
from prism_ssl.train.learner import Learner
from tune.bench.command import QUICK, Extent, feeds_table, main, steps_table
from tune.bench.steps import measure_steps


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_refuses_in_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["gpu", "--out", str(tmp_path / "bench.json")]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("GpuUnusable: prism bench gpu needs a CUDA GPU")
    assert "\n" not in told
    assert not (tmp_path / "bench.json").exists()


def test_a_tiny_shape_runs_on_a_cpu_and_its_file_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    assert main(["gpu", "--device", "cpu", "--quick", "--no-feed", "--out", str(file)]) == 0
    bench = read_bench(file)
    (row,) = bench.steps
    config = step_config(phantom_cpu(), "tiny", row.batch_size, row.n_patches, model__projection_dim=128)
    assert (row.preset, row.batch_size, row.n_patches) == ("tiny", *QUICK.batches, QUICK.n_patches)
    assert row.flops == step_flops(config)
    assert 0 < row.step_ms_median <= row.step_ms_p90 <= row.step_ms_p99
    assert row.patches_per_s == pytest.approx(2e3 * row.batch_size * row.n_patches / row.step_ms_median)
    assert 0 < row.rotary_share < 1
    assert row.attention in ("flash_attention", "math")
    assert (row.mfu, row.compiled, bench.circumstances["card"]) == (None, False, None)


def test_a_size_that_does_not_fit_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore of it")

    monkeypatch.setattr(Learner, "step", full)
    row = measure_steps(step_config(phantom_cpu(), "tiny", 2, 5), torch.device("cpu"), None, repeats=1)
    assert row.problem == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert row.planned_bytes > 0
    feed = FeedRow("cpu", "tiny", 2, 5, 1, (8, 8, 8), problem="PoolStalled: ...")
    assert [steps_table([row]).row_count, feeds_table([feed]).row_count] == [1, 1]


@pytest.mark.parametrize("cores", [1, 2, 7, 64])
def test_actors_leave_the_training_a_core_and_share_every_batch(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.bench.command.usable_cpus", lambda: cores)
    workers = Extent().workers_here()
    assert workers == {1: 1, 2: 1, 7: 4, 64: 8}[cores]
    assert all(batch % workers == 0 for batch in Extent().batches)


def test_the_spread_of_steps_is_p99_over_the_median() -> None:
    assert StepRow("tiny", 2, 5, False, False, step_ms_median=2.0, step_ms_p99=3.0).p99_over_p50 == 1.5
