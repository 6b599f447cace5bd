from __future__ import annotations

import pytest

from prism_ssl.utils.machine import memory_limit_bytes


def test_the_smallest_memory_limit_counts_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    limit, source = memory_limit_bytes()
    assert source != "SLURM_MEM_PER_NODE"
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "64")  # SLURM counts in MiB
    assert memory_limit_bytes() == (64 * 2**20, "SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", str(limit // 2**20 + 1))
    assert memory_limit_bytes() == (limit, source)


@pytest.mark.parametrize("said", ["", "0", "all of it"])
def test_a_slurm_limit_that_is_none_is_ignored(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    without = memory_limit_bytes()
    monkeypatch.setenv("SLURM_MEM_PER_NODE", said)
    assert memory_limit_bytes() == without
