"""What is appended to a file of JSON lines is never lost to what a crash has left at its end."""

from __future__ import annotations

import json
import logging
import multiprocessing
import stat
from pathlib import Path

import pytest

from prism_ssl.data.checks.quarantine import Quarantine
from prism_ssl.records.cache import TableCache
from prism_ssl.records.local import local_history
from prism_ssl.records.run_files import HISTORY_FILE, LocalRecord, read_history, truncate_history
from prism_ssl.records.runs_table import read_run_histories, read_run_records
from prism_ssl.report.plots import load_history
from prism_ssl.train.record.console import HistoryFollower
from prism_ssl.utils.json_lines import LineWriter, read_lines

LINE = b'{"global_step": 2, "loss/total": 0.5}\n'


@pytest.mark.parametrize("cut", range(len(LINE)))
def test_a_line_torn_at_any_byte_costs_itself_and_no_other(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"global_step": 1}\n' + LINE[:cut])
    assert read_lines(path).rows == [{"global_step": 1}]
    assert read_lines(path).torn == (cut > 0)
    writer = LineWriter(path)
    for step in (3, 4):
        writer.append({"global_step": step})
    writer.close()
    found = read_lines(path)
    whole = cut == len(LINE) - 1  # only its line end was missing
    assert [row["global_step"] for row in found.rows] == [1, *([2] if whole else []), 3, 4]
    assert (found.damaged, found.torn) == (0 if whole or not cut else 1, False)


@pytest.mark.parametrize("damage", [b"\0" * 40, b"[1]", b"7", b"\xff\xfe{}", b'{"global_step": 2}{"global_step": 3}'])
def test_a_damaged_line_in_the_middle_is_counted_and_told_once(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (path := tmp_path / "a.jsonl").write_bytes(b'{"global_step": 1}\n' + damage + b'\n\n{"global_step": 4}\n')
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = read_lines(path, "global_step")
            assert (len(found.rows), found.damaged, found.torn) == (2, 1, False)
    (told,) = caplog.messages
    assert told == f"{path}: 1 of 3 lines cannot be read and were left out"


def test_a_file_is_its_owners_and_a_row_that_is_no_json_leaves_it_as_it_was(tmp_path: Path) -> None:
    writer = LineWriter(path := tmp_path / "folder" / "a.jsonl")
    writer.append({"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.append({"a": float("nan")})
    assert path.read_text() == '{"a": 1}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.append({"a": 1})


def test_a_full_disk_is_an_error_of_the_line_that_did_not_fit() -> None:
    with pytest.raises(OSError, match="No space left on device"):
        LineWriter(Path("/dev/full")).append({"a": 1})


def _append_many(path: Path, writer: int) -> None:
    lines = LineWriter(path)
    for number in range(200):
        lines.append({"writer": writer, "number": number})


def test_lines_of_several_processes_behind_a_torn_one_are_all_there(tmp_path: Path) -> None:
    (path := tmp_path / "a.jsonl").write_bytes(b'{"torn')
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(path, writer)) for writer in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    found = read_lines(path)
    assert sorted((row["writer"], row["number"]) for row in found.rows) == [
        (w, n) for w in range(3) for n in range(200)
    ]
    assert found.damaged == 1


def test_a_torn_entry_of_the_quarantine_costs_no_other_and_is_counted(tmp_path: Path) -> None:
    quarantine = Quarantine(path := tmp_path / "quarantine.jsonl")
    quarantine.append("a", "open", "first", 1, 2)
    with path.open("ab") as file:
        file.write(b'{"scan_id": "b", "sta')
    assert (set(quarantine.load()), quarantine.damaged_lines()) == ({"a"}, 0)
    quarantine.append("c", "open", "other", 3, 4)
    with path.open("ab") as file:
        file.write(b'{"scan_id": "d"}\n')
    assert (set(quarantine.load()), quarantine.damaged_lines()) == ({"a", "c"}, 2)


def test_every_reader_of_a_history_reads_the_same_whole_rows_of_a_damaged_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    follower = HistoryFollower(run / HISTORY_FILE)
    (run / HISTORY_FILE).write_bytes(LINE + b'{"global_step": 3, "lo\n{"event": "alarm"}\n\0\0\n')
    record = LocalRecord(run)
    record.row(4, {"loss/total": 0.25})
    record.close()
    with (run / HISTORY_FILE).open("ab") as file:
        file.write(b'{"global_step": 5, "loss/total": 0.1')
    steps = [2, 4]
    assert [row["global_step"] for row in read_history(run)] == steps
    assert [row["global_step"] for row in follower.new_rows()] == steps
    assert load_history(run)["global_step"].to_list() == steps
    assert read_run_histories(read_run_records(tmp_path), ["loss/total"])["global_step"].to_list() == steps
    assert local_history(run, ["loss/total"], TableCache("h", tmp_path / "cache"))["loss/total"].to_list() == [
        0.5,
        0.25,
    ]
    assert truncate_history(run, 4) == 3
    assert [json.loads(line)["global_step"] for line in (run / HISTORY_FILE).read_text().splitlines()] == steps
