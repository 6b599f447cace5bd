"""A quote out of its place never takes rows with it in silence."""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path

import pytest

from prism_ssl.data.table import csv_text
from prism_ssl.errors import CatalogError
from tests.support.catalog_tables import archive_rows, load

HEAD = "pmbb_id,modality,series_path,series_description\n"


def _table(path: Path, texts: dict[int, str], rows: int = 40) -> Path:
    lines = [f"P{n},CT,p{n}/s0,{texts.get(n, 'AX ROUTINE')}\n" for n in range(rows)]
    text = (HEAD + "".join(lines)).encode()
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("block_bytes", [7, 64, 2**22])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_an_inch_mark_is_refused_with_its_line(
    tmp_path: Path, name: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_text, "_BLOCK_BYTES", block_bytes)
    path = _table(tmp_path / name, {12: 'AX 5" CHEST', 24: 'COR 3" SLAB'})
    with pytest.raises(CatalogError, match=r"line 14 has a quote out of its place \(an inch mark\?\)") as caught:
        load(path)
    assert "CHEST" not in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "line"),
    [({3: '5"'}, 5), ({3: '"AX', 9: '"AX'}, 11), ({3: '"AX'}, 5), ({39: '5"'}, 41), ({3: 'a "b" c'}, 5)],
)
def test_quotes_that_open_nothing_or_never_close_are_refused(tmp_path: Path, texts: dict[int, str], line: int) -> None:
    with pytest.raises(CatalogError, match=rf"line {line} has a quote out of its place"):
        load(_table(tmp_path / "a.csv", texts))


@pytest.mark.parametrize("block_bytes", [1, 5, 2**22])
def test_whatever_a_careful_writer_writes_is_read_as_python_reads_it(
    tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_text, "_BLOCK_BYTES", block_bytes)
    draw, text = random.Random(4), io.StringIO()
    rows = archive_rows(30)
    odd = ['"', '""', 'AX 5" CHEST', "a,b", "two\nlines", 'x"\n"y', "", '",', '\n"']
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows([row | {"series_description": draw.choice(odd)} for row in rows])
    (path := tmp_path / "a.csv").write_text(text.getvalue())
    assert load(path).report.rows == len(list(csv.DictReader(io.StringIO(text.getvalue())))) == 90


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("quoted", [True, False])
def test_a_table_that_begins_with_the_mark_of_utf8_is_read(tmp_path: Path, name: str, quoted: bool) -> None:
    rows, text = archive_rows(3), io.StringIO()
    writer = csv.DictWriter(text, rows[0], quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode("utf-8-sig")
    (path := tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert load(path).report.rows == len(rows)
