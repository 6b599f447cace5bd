"""The whole of ``prism bench gpu`` on a CPU: steps, then a live pool, with views cut out in both places."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from prism_ssl.model.capacity.measured import read_bench


@pytest.mark.slow
@pytest.mark.soak
def test_a_live_pool_feeds_the_bench_with_views_cut_out_in_both_places(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prism_ssl.cli.main", "bench", "gpu", "--device", "cpu", "--quick"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "bench.json")], env=environment, check=True, timeout=600)
    feeds = read_bench(tmp_path / "bench.json").feeds
    assert [(row.extract_on, row.problem, row.steps) for row in feeds] == [("cpu", None, 3), ("cuda", None, 3)]
    assert all(0 <= row.wait_share < 1 and row.pairs_per_s > 0 and row.first_batch_s > 0 for row in feeds)
