"""embeddings.parquet is whole or absent, and no row that was flushed is made twice."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from prism_ssl.embed.table import EmbeddingTable
from prism_ssl.errors import ConfigError

SETTINGS = {"checkpoint_hash": "abc", "views": 8, "seed": 0}


def row(name: str, value: float = 0.0, reason: str | None = None, stamp: str = "old") -> dict[str, Any]:
    ids = {"scan_id": name, "series_id": f"series-{name}", "subject_id": "someone", "modality": "CT"}
    found = {"embedding": np.full(3, value, np.float32), "spread": 0.5} if reason is None else {"detail": "why"}
    return ids | {"file_stamp": stamp, "reason": reason, "patches": b"never kept"} | found


def table(folder: Path, **options: Any) -> EmbeddingTable:
    return EmbeddingTable(folder / "e.parquet", options.pop("settings", SETTINGS), 3, **options)


def test_good_rows_are_in_the_table_and_the_others_in_a_list_beside_it(tmp_path: Path) -> None:
    job = table(tmp_path)
    for each in (row("b", 2.0), row("a", 1.0), row("bad", reason="label_map"), row("worse", reason="not_3d")):
        job.add(each)
    assert not job.out.exists()
    assert job.finish() == (2, {"label_map": 1, "not_3d": 1})
    found = pl.read_parquet(job.out).sort("scan_id")
    assert found.schema["embedding"] == pl.Array(pl.Float32, 3)
    assert found["embedding"].to_numpy().tolist() == [[1, 1, 1], [2, 2, 2]]
    assert found.drop("embedding").row(0, named=True) == {
        "scan_id": "a", "series_id": "series-a", "subject_id": "someone", "modality": "CT", "file_stamp": "old",
        "spread": 0.5, "views": 8, "checkpoint_hash": "abc",
    }  # fmt: skip
    assert pl.read_csv(job.rejected_file)["scan_id", "reason", "detail"].rows() == [
        ("bad", "label_map", "why"),
        ("worse", "not_3d", "why"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.parquet", "e.rejected.csv"]


def test_what_was_flushed_before_a_kill_is_settled(tmp_path: Path) -> None:
    killed = table(tmp_path, flush_rows=2)
    for name in ("a", "b", "c", "lost"):
        killed.add(row(name))
    killed._lock.release()  # as the kernel does
    job = table(tmp_path)
    assert [name for name in ("a", "b", "c", "lost") if job.settled(name, "old")] == ["a", "b", "c"]
    job.add(row("lost"))
    assert job.finish()[0] == 4


def test_the_first_row_is_flushed_at_once_and_later_ones_after_some_seconds(tmp_path: Path) -> None:
    now = 0.0
    job = table(tmp_path, flush_s=5.0, clock=lambda: now)
    parts = tmp_path / ".e.parquet.parts"
    job.add(row("a"))
    job.add(row("b"))
    assert len(list(parts.glob("part-*"))) == 1
    now = 5.0
    job.add(row("c"))
    assert len(list(parts.glob("part-*"))) == 2
    assert stat.S_IMODE(parts.stat().st_mode) == 0o700


def test_a_finished_table_is_added_to_and_the_newest_row_of_a_scan_stays(tmp_path: Path) -> None:
    first = table(tmp_path)
    for each in (row("same", 1.0), row("changed", 1.0), row("broken", 1.0), row("healed", reason="corrupt_gzip")):
        first.add(each)
    first.finish()
    second = table(tmp_path)
    assert [name for name in ("same", "changed", "broken", "healed") if second.settled(name, "old")] == [
        "same", "changed", "broken", "healed",
    ]  # fmt: skip
    assert not second.settled("changed", "new")
    for each in (row("changed", 2.0, stamp="new"), row("broken", reason="not_3d"), row("healed", 3.0), row("new", 4.0)):
        second.add(each)
    assert second.finish() == (4, {"not_3d": 1})
    found = pl.read_parquet(second.out)
    values = dict(zip(found["scan_id"], found["embedding"].to_numpy()[:, 0].tolist(), strict=True))
    assert values == {"same": 1.0, "changed": 2.0, "healed": 3.0, "new": 4.0}
    assert pl.read_csv(second.rejected_file)["scan_id"].to_list() == ["broken"]


def test_a_reason_that_may_pass_is_no_verdict(tmp_path: Path) -> None:
    job = table(tmp_path)
    for name in ("missing_path", "label_map"):
        job.add(row(name, reason=name))
    job.finish()
    again = table(tmp_path)
    assert not again.settled("missing_path", "old")
    assert again.settled("label_map", "old")


def test_embeddings_of_another_checkpoint_are_never_mixed_in(tmp_path: Path) -> None:
    job = table(tmp_path)
    job.add(row("a"))
    job.close()  # interrupted: parts only
    other = SETTINGS | {"checkpoint_hash": "xyz", "views": 4}
    match = r"part-000001.parquet holds embeddings of another checkpoint_hash and views; choose another --out"
    with pytest.raises(ConfigError, match=match):
        table(tmp_path, settings=other)
    table(tmp_path).finish()
    with pytest.raises(ConfigError, match=r"e.parquet holds embeddings of another checkpoint_hash and views"):
        table(tmp_path, settings=other)
    pl.DataFrame({"scan_id": ["a"]}).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(ConfigError, match=r"e.parquet is no table of embeddings"):
        table(tmp_path)


def test_two_jobs_do_not_write_one_table(tmp_path: Path) -> None:
    job = table(tmp_path)
    with pytest.raises(ConfigError, match="is being written by another job"):
        table(tmp_path)
    job.close()
    table(tmp_path)
