"""Every reader of a history has one manner: a torn last line is normal, a damaged middle one is counted and told."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl
import pytest

from prism_ssl.records.cache import TableCache
from prism_ssl.records.history_file import read_scalars
from prism_ssl.records.local import damage_in_words, local_history, local_records
from prism_ssl.records.run_files import HISTORY_FILE, read_history, truncate_history
from prism_ssl.records.runs_table import damaged_histories, read_run_histories, read_run_records
from prism_ssl.report import plots
from prism_ssl.train.record.console import HistoryFollower

DAMAGED = {
    "zeros of a lost page": b"\0" * 40,
    "a list": b"[1]",
    "a number": b"7",
    "no UTF-8": b"\xff\xfe{}",
    "two rows in one": b'{"global_step": 2}{"global_step": 3}',
    "the middle of a row": b'oss/total": 0.5}',
    "no step": b'{"loss/total": 0.5}',
    "an event without a step": b'{"event": "alarm", "text": "x"}',
    "a step of null": b'{"global_step": null, "loss/total": 0.5}',
    "a step in words": b'{"global_step": "two", "loss/total": 0.5}',
    "a list of steps": b'{"global_step": [2], "loss/total": 0.5}',
    "a step beyond 64 bits": b'{"global_step": 99999999999999999999, "loss/total": 0.5}',
    "an endless step": b'{"global_step": 1e999, "loss/total": 0.5}',
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def steps_read(run: Path, cache: Path) -> dict[str, list[int]]:
    """What every reader of a history finds."""
    follower = HistoryFollower(run / "elsewhere")
    follower._path = run / HISTORY_FILE  # as if the file were new
    tables = {
        "local_history": local_history(run, ["loss/total"], TableCache("h", cache)),
        "load_history": plots.load_history(run),
        "read_run_histories": read_run_histories(read_run_records(run.parent), ["loss/total"]),
    }
    rows = {"read_history": read_history(run), "HistoryFollower": follower.new_rows()}
    return {name: table["global_step"].to_list() for name, table in tables.items()} | {
        name: [row["global_step"] for row in found] for name, found in rows.items()
    }


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_line_costs_itself_alone_with_every_reader(what: str, run: Path, tmp_path: Path) -> None:
    first, last = b'{"global_step": 1, "loss/total": 0.75}\n', b'{"global_step": 4, "loss/total": 0.25}\n'
    (run / HISTORY_FILE).write_bytes(first + DAMAGED[what] + b"\n" + last)
    assert {str(steps) for steps in steps_read(run, tmp_path).values()} == {"[1, 4]"}
    assert (read_scalars(run).damaged, read_scalars(run).lines) == (1, 3)
    assert truncate_history(run, 4) == 1
    assert (run / HISTORY_FILE).read_bytes() == first + last


@pytest.mark.parametrize("cut", [1, 15, 30])
def test_a_torn_last_line_is_normal_and_nothing_is_told(
    cut: int, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = b'{"global_step": 2, "loss/total": 0.5}\n'
    (run / HISTORY_FILE).write_bytes(line + line[:cut])
    with caplog.at_level(logging.WARNING):
        assert {str(steps) for steps in steps_read(run, tmp_path).values()} == {"[2]"}
        assert local_records(run.parent)["steps_done"].to_list() == [2]
    assert (read_scalars(run).damaged, caplog.messages) == (0, [])
    assert damage_in_words(run, TableCache("h", tmp_path)) is None


@pytest.mark.parametrize("last", ["a step of null", "a list of steps", "an endless step", "zeros of a lost page"])
def test_an_unfinished_run_has_reached_the_last_step_that_can_be_read(last: str, run: Path) -> None:
    (run / HISTORY_FILE).write_bytes(b'{"global_step": 7}\n' + DAMAGED[last] + b"\n")
    assert local_records(run.parent)["steps_done"].to_list() == [7]


def test_a_step_is_found_behind_a_line_that_is_longer_than_the_tail(run: Path) -> None:
    (run / HISTORY_FILE).write_bytes(b'{"global_step": 7}\n' + b"\0" * 2**17 + b"\n")
    assert local_records(run.parent)["steps_done"].to_list() == [7]


def test_blank_lines_and_ends_of_lines_from_other_systems_are_no_damage(run: Path, tmp_path: Path) -> None:
    (run / HISTORY_FILE).write_bytes(b'{"global_step": 1}\r\n\n  \n\r\n{"global_step": 2}\r\n')
    assert {str(steps) for steps in steps_read(run, tmp_path).values()} == {"[1, 2]"}
    assert (read_scalars(run).damaged, read_scalars(run).lines) == (0, 2)
    assert truncate_history(run, 9) == 0


def test_odd_values_cost_their_cell_and_no_row(run: Path, tmp_path: Path) -> None:
    lines = [b'{"global_step": 1, "a": 1.5, "b": 1}', b'{"global_step": 2, "a": NaN, "b": "x"}',
             b'{"global_step": 3, "a": 1e999, "b": [1]}',
             b'{"global_step": 4, "a": {"x": 1}, "b": 99999999999999999999}',
             b'{"event": "alarm", "global_step": 5, "text": "x"}']  # fmt: skip
    (run / HISTORY_FILE).write_bytes(b"\n".join(lines) + b"\n")
    table = local_history(run, ["a", "b"], TableCache("h", tmp_path))
    assert table["global_step"].to_list() == plots.load_history(run)["global_step"].to_list() == [1, 2, 3, 4]
    assert table["a"].to_list() == [1.5, None, None, None]
    assert table["b"].to_list()[:3] == [1.0, None, None]
    assert read_run_histories(read_run_records(run.parent), ["a"])["a"].to_list() == [1.5, None, None, None]
    assert read_scalars(run).damaged == 0


# ---------------------------------------------------------------------- told
def test_damage_is_told_in_words_also_when_the_rows_come_from_the_cache(run: Path, tmp_path: Path) -> None:
    lost = DAMAGED["no step"] + b"\n" + DAMAGED["the middle of a row"] + b"\n"
    (run / HISTORY_FILE).write_bytes(b'{"global_step": 1}\n' + lost)
    cache, words = TableCache("h", tmp_path), "2 of 3 lines of history.jsonl cannot be read and are left out"
    for _ in range(2):
        local_history(run, [], cache)
        assert damage_in_words(run, cache) == words
    (run / HISTORY_FILE).write_bytes(lost)
    assert damage_in_words(run, cache) == words.replace("of 3", "of 2")
    assert local_history(run, [], cache).is_empty()
    (run / HISTORY_FILE).unlink()
    assert damage_in_words(run, cache) is None


def test_a_ranking_names_the_runs_whose_history_is_damaged(run: Path) -> None:
    (run / HISTORY_FILE).write_bytes(b'{"global_step": 1}\n' + DAMAGED["no step"] + b"\n")
    whole = run.parent / "whole"
    whole.mkdir()
    (whole / "config.json").write_text("{}")
    (whole / HISTORY_FILE).write_bytes(b'{"global_step": 1}\n')
    told = damaged_histories(read_run_records(run.parent))
    assert told == [f"{run.name}: 1 of 2 lines of history.jsonl cannot be read and are left out."]


def test_a_line_without_a_step_is_told_to_the_log_like_any_damage(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / HISTORY_FILE).write_bytes(b'{"global_step": 1}\n{"loss/total": 1.0}\n')
    with caplog.at_level(logging.WARNING):
        read_scalars(run)
        read_history(run)
    assert caplog.messages == [f"{run / HISTORY_FILE}: 1 of 2 lines cannot be read and were left out"]


def test_plot_draws_the_whole_rows_and_tells_of_the_others(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = b"".join(b'{"global_step": %d, "loss/total": 0.5}\n' % step for step in (1, 2, 3))
    (run / HISTORY_FILE).write_bytes(rows + b"\0\0\n" + rows.replace(b": 1,", b": 4,"))
    with caplog.at_level(logging.WARNING):
        assert plots.main([str(run)]) == 0
    assert caplog.messages == [f"{run / HISTORY_FILE}: 1 of 7 lines cannot be read and were left out"]
    assert plots.load_history(run)["global_step"].to_list() == [1, 2, 3, 4, 2, 3]


def test_without_a_history_there_is_nothing(run: Path) -> None:
    nothing = read_scalars(run)
    assert (nothing.rows.height, nothing.rows.columns, nothing.damaged, nothing.lines) == (0, ["global_step"], 0, 0)
    assert nothing.rows.schema["global_step"] == pl.Int64
