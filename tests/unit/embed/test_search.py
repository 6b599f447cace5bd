"""Search is exact: the same neighbours as scikit-learn's, whatever the size of the blocks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.neighbors import NearestNeighbors

from prism_ssl.data.scan import write_volume
from prism_ssl.embed import index as index_module
from prism_ssl.embed import unit_vectors
from prism_ssl.embed.search import Query, find, main, parse_query
from prism_ssl.errors import ConfigError

ROWS, WIDTH = 500, 8
IDS = {
    "scan_id": [f"s{n}" for n in range(ROWS)],
    "subject_id": [f"p{n // 5}" for n in range(ROWS)],
    "modality": ["CT"] * ROWS,
}
X = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    pl.DataFrame(IDS | {"embedding": pl.Series(X, dtype=pl.Array(pl.Float32, WIDTH))}).write_parquet(
        tmp_path / "e.parquet"
    )
    return tmp_path / "e.parquet"


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("rows", [7, 10**6])
def test_neighbours_are_those_of_scikit_learn(
    index: Path, monkeypatch: pytest.MonkeyPatch, rows: int, kept: bool, tmp_path: Path
) -> None:
    monkeypatch.setattr(index_module, "BLOCK_ROWS", rows)
    monkeypatch.setattr(unit_vectors, "BLOCK_ROWS", 50)
    monkeypatch.setattr(unit_vectors, "KEPT_FROM_BYTES", 0 if kept else 10**9)
    monkeypatch.setenv("PRISM_TMP_ROOT", str(tmp_path))
    distance, at = NearestNeighbors(metric="cosine").fit(X).kneighbors(X[[42]], 11)
    found, gap = find(index, Query("s42", None), 10)
    assert [match.scan_id for match in found] == [f"s{n}" for n in at[0, 1:]]
    np.testing.assert_allclose([match.cosine for match in found], 1 - distance[0, 1:], atol=1e-6)
    assert gap is None
    assert len(list(tmp_path.glob("prism_ssl/search/*/vectors.f32"))) == kept
    others, _ = find(index, Query("s42", None), 500, other_patients=True)
    assert len(others) == ROWS - 5
    assert not {f"s{n}" for n in range(40, 45)} & {match.scan_id for match in others}


def test_vectors_are_kept_until_their_index_changes_or_goes(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_vectors, "KEPT_FROM_BYTES", 0)
    monkeypatch.setenv("PRISM_TMP_ROOT", str(index.parent))

    def best(file: Path = index) -> list[str]:
        return [match.scan_id for match in find(file, Query("s42", None), 3)[0]]

    first, second, third = best()
    (vectors,) = index.parent.glob("prism_ssl/search/*/vectors.f32")
    inode = vectors.stat().st_ino
    assert best() == [first, second, third]
    assert vectors.stat().st_ino == inode
    pl.read_parquet(index).filter(pl.col("scan_id") != first).write_parquet(index)
    assert best()[:2] == [second, third]
    assert vectors.stat().st_ino != inode
    index.rename(index.with_name("other.parquet"))
    assert best(index.with_name("other.parquet"))[:2] == [second, third]
    assert not vectors.exists()


@pytest.mark.parametrize("kept", [False, True])
def test_points_of_fields_are_found_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.setattr(unit_vectors, "KEPT_FROM_BYTES", 0 if kept else 10**9)
    monkeypatch.setenv("PRISM_TMP_ROOT", str(tmp_path / "tmp"))
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    affine[:3, 3] = (-16.0, 8.0, 0.5)
    fields = np.random.default_rng(1).normal(size=(2, WIDTH, 5, 6, 7)).astype(np.float32)
    fields[:, :, 0] = 0  # air
    fields[1, :, 4, 5, 6] = 3 * fields[0, :, 1, 2, 3]  # the same direction
    for scan, field in zip(("s0", "s1"), fields, strict=True):
        write_volume(tmp_path / f"{scan}.nii.gz", affine, (7, 6, 5), WIDTH, [field])
    table = pl.DataFrame({name: values[:3] for name, values in IDS.items()})
    vectors = pl.Series("embedding", X[:3], dtype=pl.Array(pl.Float32, WIDTH))
    table.with_columns(vectors).write_parquet(tmp_path / "volumes.parquet")  # s2 has no field
    x, y, z = (affine @ [3, 2, 1, 1])[:3]
    assert main(["--query", f"s0:{x + 1},{y},{z}", "--index", str(tmp_path), "--k", "3", "--json"]) == 0
    first, second, _ = json.loads(capsys.readouterr().out)
    assert (first["scan_id"], first["cosine"]) == ("s1", pytest.approx(1.0))
    assert [first[name] for name in ("x_mm", "y_mm", "z_mm")] == (affine @ [6, 5, 4, 1])[:3].tolist()
    assert second["cosine"] < 0.999
    assert main(["--query", f"s0:{x + 1},{y},{z}", "--index", str(tmp_path)]) == 0
    assert "the query's vector lies 1.0 mm from its place" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="many vectors of scan s0; needed: a place too"):
        find(tmp_path, Query("s0", None), 3)


def test_a_query_without_meaning_is_refused(index: Path, tmp_path: Path) -> None:
    assert parse_query("abc:1,-2.5,3") == Query("abc", (1.0, -2.5, 3.0))
    for text in ("", "abc:", "abc:1,2", "abc:1,2,x", "abc:1,2,nan"):
        with pytest.raises(ConfigError, match="has no meaning"):
            parse_query(text)
    with pytest.raises(ConfigError, match="holds no vector of scan 'unknown'"):
        find(index, Query("unknown", None), 3)
    with pytest.raises(ConfigError, match="holds no places"):
        find(index, Query("s1", (0.0, 0.0, 0.0)), 3)
    with pytest.raises(ConfigError, match="cannot be read"):
        find(tmp_path / "none.parquet", Query("s1", None), 3)
    with pytest.raises(ConfigError, match="--k is 0"):
        find(index, Query("s1", None), 0)
