from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from prism_ssl.data.table import hash_order
from prism_ssl.data.table.hash_order import HashOrder, stable_keys
from tests.support.catalog_tables import archive_rows


def plain_key(text: str, seed: int) -> int:
    """stable_keys in plain integers, word by word."""
    raw, mask = text.encode(), 2**64 - 1
    state = (len(raw) * 0x9E3779B97F4A7C15 + seed) & mask
    for at in range(0, len(raw), 8):
        state = ((state ^ int.from_bytes(raw[at : at + 8], "little")) * 0x9E3779B97F4A7C15) & mask
        state ^= state >> 32
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        state = ((state ^ (state >> 33)) * factor) & mask
    return state ^ (state >> 33)


def test_keys_equal_the_hash_in_plain_integers() -> None:
    texts = ["", "a", "1234567", "12345678", "123456789", "ü" * 40, "x" * 1000, "\0", "\0\0", "a"]
    assert stable_keys(pl.Series(texts), 7).tolist() == [plain_key(text, 7) for text in texts]
    assert stable_keys(pl.Series([], dtype=pl.String), 7).tolist() == []
    assert stable_keys(pl.Series(["PM0001\x1fCT"]), 0).tolist() == [15627637308413995284]


def test_keys_of_numbered_paths_fill_their_range_evenly() -> None:
    keys = stable_keys(pl.Series([f"/archive/series_{number}" for number in range(64_000)]), 0)
    assert len(np.unique(keys)) == len(keys)
    for shift in (58, 29, 0):
        counts = np.bincount(((keys >> np.uint64(shift)) & np.uint64(63)).astype(np.int64), minlength=64)
        assert 30 < np.sum((counts - 1000.0) ** 2 / 1000.0) < 120  # chi square, 63 degrees of freedom


def test_equal_keys_are_put_in_order_by_the_rows_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hash_order, "stable_keys", lambda strings, seed: np.zeros(len(strings), np.uint64))
    monkeypatch.setattr(hash_order, "BATCH_ROWS", 8)  # so that the limit of the order is in force from row 10 on
    frame = pl.DataFrame(archive_rows(50)).with_columns(series_id=pl.lit(""), nifti_path=pl.lit(""))
    firsts = []
    for rows in (frame, frame.reverse()):
        order = HashOrder(10, seed=0)
        for start in range(0, rows.height, 7):
            order.add(rows[start : start + 7])
        firsts.append(order.first())
    assert firsts[0].equals(firsts[1])
    assert firsts[0]["series_path"].to_list() == sorted(frame["series_path"])[:10]
