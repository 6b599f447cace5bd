from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from prism_ssl.contracts import VisitChunk, VisitKey
from prism_ssl.data.pool.chunks import empty_chunk
from prism_ssl.train.record.view_tally import ViewTally, views_file


def chunk(*rows: tuple[str, int, int]) -> VisitChunk:
    """A pair of each scan, with the bits of its two views."""
    made = empty_chunk(len(rows), 1, "cpu")
    made.visits = [VisitKey(scan_id, 0, number) for number, (scan_id, _, _) in enumerate(rows)]
    made.sight_bits = np.array([bits for _, *bits in rows], np.uint8)
    return made


def test_the_file_has_the_worst_scans_first_and_is_continued(tmp_path: Path) -> None:
    file = views_file(tmp_path, rank=0)
    first = ViewTally(file, go_on=False)
    first.note([chunk(("lung", 3, 0), ("head", 0, 0)), chunk(("liver", 0, 4))])
    first.count()
    first.save()
    again = ViewTally(file, go_on=True)
    again.note([chunk(("head", 1, 1))])
    again.count()
    again.note([chunk(("lung", 7, 7))])  # it was not trained on
    again.save()
    told = json.loads(file.read_text())
    assert list(told) == ["head", "lung", "liver"]
    assert told["head"] == {"views": 4, "views_empty": 2, "views_saturated": 2, "views_flat": 0, "views_outside": 0}
    assert told["lung"] == {"views": 2, "views_empty": 1, "views_saturated": 1, "views_flat": 1, "views_outside": 0}
    assert told["liver"]["views_outside"] == 1
    assert ViewTally(file, go_on=False).counts == {}


def test_a_file_that_is_torn_or_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (file := tmp_path / "views_by_scan.json").write_text('{"scan')
    tally = ViewTally(file, go_on=True)
    assert tally.counts == {}
    tally.note([chunk(("scan", 0, 0))])
    tally.count()
    file.unlink()
    file.mkdir()
    (file / "in the way").touch()
    tally.save()
