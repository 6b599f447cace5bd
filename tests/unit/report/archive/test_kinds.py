"""Body part and contrast: what a column tells counts, a description is a guess, and a doubt is "unknown"."""

from __future__ import annotations

import polars as pl
import pytest

from prism_ssl.data.catalog import other_column
from prism_ssl.report.archive.kinds import COLUMNS, kinds


def told(text: str = "", exam: str = "", **columns: str) -> tuple[str, str, str, str]:
    """(body part, by, contrast, by) of one row."""
    others = {other_column(name): columns.get(name, "") for name in COLUMNS}
    row = pl.DataFrame({"series_text": [text], "exam_type": [exam]} | {name: [value] for name, value in others.items()})
    (answer,) = row.select(*kinds()).rows()
    return answer


@pytest.mark.parametrize(
    ("text", "exam", "column", "body_part", "by"),
    [
        ("CT_ABDOMEN_PELVIS_3MM", "CT CHEST", "", "abdomen + pelvis", "the description"),
        ("AX T1 POST", "MRI BRAIN W WO CONTRAST", "", "head", "the exam type"),
        ("CT CHEST", "", "ABDOMENPELVIS", "abdomen + pelvis", "a column"),
        ("CT CHEST", "", "zygoma", "other", "a column"),
        ("HEADLESS", "", "", "unknown", ""),
        ("CHESTABDPELVIS", "", "", "chest + abdomen + pelvis", "the description"),
        ("", "", "", "unknown", ""),
    ],
)  # fmt: skip
def test_the_body_part_is_a_region_of_the_first_source_that_names_one(
    text: str, exam: str, column: str, body_part: str, by: str
) -> None:
    assert told(text, exam, body_part=column)[:2] == (body_part, by)


@pytest.mark.parametrize(
    ("text", "contrast"),
    [
        ("AX T1 POST", "with"), ("AX T1 POST GD", "with"), ("CT CHEST W CONTRAST", "with"), ("PORTAL VENOUS", "with"),
        ("AX T1 PRE", "without"), ("CT CHEST WITHOUT CONTRAST", "without"), ("CT HEAD WO", "without"),
        ("CT HEAD NON-CONTRAST", "without"), ("CT HEAD W/O CONTRAST", "without"), ("LIVER C+", "with"),
        ("MRI BRAIN W WO CONTRAST", "unknown"), ("WITH AND WITHOUT CONTRAST", "unknown"), ("T1 W", "unknown"),
        ("PHASE CONTRAST", "unknown"), ("AX T1", "unknown"), ("", "unknown"), ("PRE AND POST", "unknown"),
    ],
)  # fmt: skip
def test_contrast_is_guessed_only_where_the_words_leave_no_doubt(text: str, contrast: str) -> None:
    assert told(text)[2:] == (contrast, "" if contrast == "unknown" else "the description")


def test_a_column_on_the_agent_outvotes_the_description() -> None:
    assert told("AX T1 PRE", contrast_agent="true")[2:] == ("with", "a column")
    assert told("AX T1 POST", contrast_agent="false")[2:] == ("without", "a column")
    assert told("AX T1 POST", ContrastBolusAgent="Omnipaque")[2:] == ("with", "a column")
    assert told("AX T1 POST", ContrastBolusAgent="WITHOUT CONTRAST")[2:] == ("without", "a column")


def test_a_column_that_does_not_tell_the_agent_leaves_it_to_the_next_source() -> None:
    assert told("AX T1", contrast_agent="N/A")[2:] == ("unknown", "")
    assert told("AX T1 POST", contrast_agent="nan")[2:] == ("with", "the description")
    assert told("AX T1", contrast_agent="-", ContrastBolusAgent="0.0")[2:] == ("without", "a column")


def test_no_text_of_the_table_leaves() -> None:
    planted = "SMITH JOHN 19700101"
    answers = told(f"CT CHEST {planted}", planted, body_part=planted, contrast_agent=planted)
    assert not any(word in answer.upper() for answer in answers for word in planted.split())
