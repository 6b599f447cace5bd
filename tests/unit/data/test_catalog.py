from __future__ import annotations

import gzip
import random
from collections import Counter
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prism_ssl.config.schema import DataConfig
from prism_ssl.data import catalog
from prism_ssl.data.catalog import load_records
from prism_ssl.data.table.series_file import resolve_nifti
from prism_ssl.errors import CatalogError, ScanRejected
from tests.support.catalog_tables import COLUMNS, Row, archive_rows, chosen, ids, load, touch, write

SHARED_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"


# Selection


def test_shuffling_the_rows_changes_nothing(tmp_path: Path) -> None:
    rows = archive_rows(300)
    before = load(write(tmp_path / "a.csv", rows), n_scans=50)
    random.Random(1).shuffle(rows)
    assert load(write(tmp_path / "b.csv", rows), n_scans=50) == before


def test_an_appended_row_displaces_at_most_one_scan(tmp_path: Path) -> None:
    rows = archive_rows(300)
    before = set(ids(write(tmp_path / "a.csv", rows[:-100]), n_scans=50))
    everything = set(ids(write(tmp_path / "b.csv", rows), n_scans=len(rows)))
    after = set(ids(write(tmp_path / "c.csv", rows), n_scans=50))
    old = set(ids(write(tmp_path / "d.csv", rows[:-100]), n_scans=len(rows)))
    arrived = after & (everything - old)
    assert 0 < len(arrived) < 50
    assert len(before - after) == len(arrived)
    assert after - arrived < before


def test_a_smaller_selection_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", archive_rows(100))
    assert ids(path, n_scans=20) == ids(path, n_scans=200)[:20]


def test_another_seed_selects_other_scans_with_the_same_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", archive_rows(400))
    zero, one = set(ids(path, seed=0, n_scans=600)), set(ids(path, seed=1, n_scans=600))
    assert 240 < len(zero & one) < 360  # half of 600, +- 5 sigma
    assert set(ids(path, seed=0, n_scans=1200)) == set(ids(path, seed=1, n_scans=1200)) > zero | one


def test_selection_takes_every_patient_alike(tmp_path: Path) -> None:
    rows = archive_rows(2000, series_each=2)
    paths = {record.series_path for record in chosen(load(write(tmp_path / "a.csv", rows), n_scans=2000))}
    early = sum(row["series_path"] in paths for row in rows[:2000])
    assert abs(early - 1000) < 5 * 22  # sigma of a hypergeometric draw


def test_batches_of_any_size_select_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", archive_rows(500))
    whole = load(path, n_scans=40)
    monkeypatch.setattr(catalog, "BATCH_ROWS", 64)
    assert load(path, n_scans=40) == whole


@pytest.mark.parametrize("name", ["a.csv.gz", "a.parquet", "A.CSV"])
def test_every_format_gives_the_same_selection(tmp_path: Path, name: str) -> None:
    rows = archive_rows(50)
    rows[7] |= {"series_path": 'odd, "quoted"\nand/grün', "exam_type": None}
    assert load(write(tmp_path / name, rows)) == load(write(tmp_path / "plain.csv", rows))


def test_numbers_and_categories_in_parquet_are_read_as_strings(tmp_path: Path) -> None:
    rows = [row | {"pmbb_id": str(number)} for number, row in enumerate(archive_rows(10))]
    plain = load(write(tmp_path / "a.csv", rows))
    typed = pl.DataFrame(rows).cast({"pmbb_id": pl.Int64, "modality": pl.Categorical})
    typed.write_parquet(tmp_path / "b.parquet")
    assert load(tmp_path / "b.parquet") == plain


def test_a_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    text = write(tmp_path / "a.csv", archive_rows(50)).read_bytes()
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text[:2001]) + gzip.compress(text[2001:]))
    assert load(tmp_path / "a.csv.gz") == load(tmp_path / "a.csv")


def test_a_file_name_is_no_pattern(tmp_path: Path) -> None:
    rows = archive_rows(5)
    write(tmp_path / "ab.csv", rows[:3])
    assert load(write(tmp_path / "a[b]*.csv", rows)).report.rows == 15


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", archive_rows(5))
    windows = tmp_path / "b.csv"
    windows.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(windows) == load(path)


# Ids


def test_the_place_of_the_catalogue_does_not_enter_the_ids(tmp_path: Path) -> None:
    rows = archive_rows(20)
    assert ids(write(tmp_path / "here" / "a.csv", rows)) == ids(write(tmp_path / "there" / "b.csv", rows))


def test_ids_hold_neither_patient_nor_path(tmp_path: Path) -> None:
    for record in chosen(load(write(tmp_path / "a.csv", archive_rows(50)))):
        for hashed in (record.scan_id, record.series_id, record.subject_id):
            assert len(hashed) == 16
            assert set(hashed) <= set("0123456789abcdef")


def test_ids_are_the_ones_of_earlier_runs(tmp_path: Path) -> None:
    row = archive_rows(1)[0]
    full: Row = row | {"series_id": "1.2.3", "nifti_path": "a.nii.gz"}
    (old,) = chosen(load(write(tmp_path / "a.csv", [row])))
    (new,) = chosen(load(write(tmp_path / "b.csv", [full])))
    assert (old.scan_id, old.series_id, old.subject_id) == ("2c8e73015c3a4d72", "ecdf785cc053d7d4", "9549646fdd047195")
    assert (new.scan_id, new.series_id, new.subject_id) == ("9c3e67bb810421f0", "86c1a397904bafc4", "9549646fdd047195")


@pytest.mark.parametrize("field", ["pmbb_id", "series_id", "series_path", "nifti_path"])
def test_rows_that_differ_in_one_source_field_are_two_scans(tmp_path: Path, field: str) -> None:
    row = archive_rows(1)[0] | {"series_id": "7", "nifti_path": "a.nii"}
    path = write(tmp_path / "a.csv", [row, row | {field: "other"}])
    assert len(set(ids(path))) == 2
    assert load(path).report.duplicates == 0


def test_files_of_one_series_share_its_series_id(tmp_path: Path) -> None:
    row = archive_rows(1)[0]
    path = write(tmp_path / "a.csv", [row | {"nifti_path": name} for name in ("a.nii", "b.nii")])
    assert len({record.series_id for record in chosen(load(path))}) == 1


def test_equal_series_ids_of_two_patients_are_two_series(tmp_path: Path) -> None:
    row = archive_rows(1)[0] | {"series_id": "1"}
    path = write(tmp_path / "a.csv", [row, row | {"pmbb_id": "other"}])
    assert len({record.series_id for record in chosen(load(path))}) == 2


def test_blanks_and_a_closing_slash_make_no_other_scan(tmp_path: Path) -> None:
    row = archive_rows(1)[0]
    same: Row = row | {"series_path": f" {row['series_path']}/ ", "pmbb_id": f"{row['pmbb_id']} ", "modality": "ct "}
    selection = load(write(tmp_path / "a.csv", [row, same]))
    assert len(selection.unresolved) == 1
    assert selection.report.duplicates == 1


def test_duplicate_rows_are_dropped_whatever_their_order_and_counted(tmp_path: Path) -> None:
    rows = archive_rows(100)
    other_modality = [row | {"modality": "MR"} for row in rows]
    tables = [rows * 2 + other_modality, other_modality + rows * 2]
    first, second = (load(write(tmp_path / f"{number}.csv", table)) for number, table in enumerate(tables))
    assert first == second
    assert (first.report.rows, first.report.duplicates, first.report.distinct) == (900, 600, 300)
    assert Counter(record.modality for record in chosen(first)) == {"CT": 200, "MR": 100}  # CT sorts before MR


# Filters, columns and counts


def test_the_report_accounts_for_every_row(tmp_path: Path) -> None:
    rows = archive_rows(100)
    texts: list[Row] = [{"series_description": text} for text in ("DWI", "LOCALIZER", "MIP", "DWI MIP")]
    rows += [rows[0] | text | {"series_path": f"x/{number}"} for number, text in enumerate(texts)]
    rows += [rows[0] | {"modality": None}, rows[0] | {"modality": "CR"}, rows[0] | {"pmbb_id": " "}]
    rows += [rows[0] | {"series_path": None}, rows[0]]
    path = write(tmp_path / "a.csv", rows)
    report = load(path, n_scans=30, drop_time_series=True, drop_localizers=True, drop_derived=True).report
    assert report.rows == 309
    assert report.dropped == {"no_patient_or_path": 2, "modality": 2, "time_series": 2, "localizer": 1, "derived": 1}
    assert (report.duplicates, report.distinct, report.selected) == (1, 300, 30)
    assert report.modalities == {"CT": 207, "MR": 100, "CR": 1, "": 1}
    assert load(path, modality_filter=("cr",)).report.distinct == 1


def test_a_table_may_name_its_columns_otherwise(tmp_path: Path) -> None:
    rows = archive_rows(20)
    plain = load(write(tmp_path / "a.csv", rows))
    renamed = [{"mrn": row["pmbb_id"], "Mod": row["modality"], "dir": row["series_path"]} for row in rows]
    path = write(tmp_path / "b.parquet", renamed)
    assert load(path, columns={"pmbb_id": "mrn", "modality": "Mod", "series_path": "dir"}) == plain


def test_a_missing_column_is_named_with_its_nearest_candidate_and_the_knob(tmp_path: Path) -> None:
    rows = [{"PMBB_ID": row["pmbb_id"], "modalty": row["modality"]} for row in archive_rows(2)]
    told = r"has no column pmbb_id, modality, series_path; found: PMBB_ID, modalty; needed: pmbb_id, .*data\.columns"
    with pytest.raises(CatalogError, match=told) as caught:
        load(write(tmp_path / "a.csv", rows))
    assert "say --data.columns pmbb_id PMBB_ID modality modalty series_path COLUMN" in str(caught.value)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("modality,series_path", "no unused column is left"),
        ("modality,series_path,weight", r"--data.columns pmbb_id COLUMN \(COLUMN: one of weight\)"),
        ("PatientID,modality,series_path,age", "--data.columns pmbb_id PatientID$"),
        ("Patient ID,modality,series_path,age", "--data.columns pmbb_id 'Patient ID'$"),
        ("mrn,modality,series_path,series_id", "--data.columns pmbb_id mrn$"),
    ],
)
def test_no_column_is_proposed_that_means_something_already(tmp_path: Path, found: str, told: str) -> None:
    (tmp_path / "a.csv").write_text(f"{found}\n")
    with pytest.raises(CatalogError, match=told):
        load(tmp_path / "a.csv")


def test_the_proposal_keeps_what_was_said_before(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,modalty,series_path\n")
    with pytest.raises(CatalogError, match=r"--data.columns pmbb_id who modality modalty$"):
        load(tmp_path / "a.csv", columns={"pmbb_id": "who"})


def test_one_column_has_one_meaning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", archive_rows(2))
    with pytest.raises(CatalogError, match=r"column 'modality' of catalogue .* is to be pmbb_id and modality at once"):
        load(path, columns={"pmbb_id": "modality"})
    with pytest.raises(CatalogError, match="is to be pmbb_id and series_id at once"):
        load(path, columns={"series_id": "pmbb_id"})
    assert load(path, columns={"nifti_path": "series_path"}).report.distinct == 6  # both say where it lies


@pytest.mark.parametrize("switch", ["drop_time_series", "drop_localizers", "drop_derived"])
def test_descriptions_are_needed_only_by_the_filters_that_read_them(tmp_path: Path, switch: str) -> None:
    rows = [{key: row[key] for key in COLUMNS[:3]} for row in archive_rows(2)]
    path = write(tmp_path / "a.csv", rows)
    assert load(path).report.distinct == 6
    with pytest.raises(CatalogError, match="has no column series_description"):
        load(path, **{switch: True})


def test_a_mapped_column_must_be_there_even_if_it_is_optional(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", archive_rows(2))
    with pytest.raises(CatalogError, match="has no column file; found: pmbb_id"):
        load(path, columns={"nifti_path": "file"})
    with pytest.raises(CatalogError, match=r"data\.columns names mrn; known: pmbb_id, modality"):
        load(path, columns={"mrn": "pmbb_id"})


def test_no_row_left_is_an_error_with_the_count_at_every_stage(tmp_path: Path) -> None:
    rows = [row | {"modality": "XA"} for row in archive_rows(2)] + [row | {"exam_type": "x"} for row in archive_rows(1)]
    dwi = [row | {"series_description": "DWI"} for row in rows]
    told = r"9 rows read, 9 after no_patient_or_path, 3 after modality, 0 after time_series; modalities found: XA \(6\)"
    with pytest.raises(CatalogError, match=told):
        load(write(tmp_path / "a.csv", dwi), drop_time_series=True)


def test_a_table_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"leaves no scan: 0 rows read, .* modalities found: none"):
        load(write(tmp_path / "a.csv", []))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"", "cannot be read .*empty CSV"),
        ("a.csv.gz", b"", "cannot be read .*empty CSV"),
        ("a.parquet", b"no parquet at all", "cannot be read .*repair or export it again"),
        ("a.csv", b"pmbb_id,modality,series_path\nsecret-7,CT,\xe9t\xe9\n", "cannot be read .*utf-8"),
        ("a.csv", b"pmbb_id,modality,series_path\nsecret-7,CT,a,b,c\n", "cannot be read .*more fields"),
        ("a.csv", b'pmbb_id,modality,series_path\n"secret-7,CT,a\nP2,CT,b\n', "cannot be read"),
        (
            "a.csv.gz",
            gzip.compress(b"pmbb_id,modality,series_path\nP1,CT,a\n", mtime=0)[:-12],
            "cannot be read .*end of file",
        ),
        ("a.xlsx", b"PK", "is of an unknown kind; needed: .csv, .csv.gz, .parquet"),
    ],
)
def test_an_unreadable_table_is_named_but_not_quoted(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError, match=told) as caught:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "secret-7" not in str(caught.value)


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"none\.csv does not exist; set data\.catalog_path"):
        load(tmp_path / "none.csv")
    with pytest.raises(CatalogError, match=r"holds no \.nii or \.nii\.gz file, and no catalog\.parquet"):
        load(tmp_path)
    with pytest.raises(CatalogError, match="catalog_path is not given"):
        load_records(DataConfig(phantom_subjects=3), 0)


# Files on disk


def test_rows_without_a_file_are_set_aside_and_the_others_served(tmp_path: Path) -> None:
    rows = archive_rows(4, series_each=1)
    touch(*(tmp_path / str(row["series_path"]) / "scan.nii.gz" for row in rows[:3]))
    touch(tmp_path / str(rows[0]["series_path"]) / "second.nii")
    selection = load(write(tmp_path / "a.csv", rows))
    assert {record.nifti_path for record in selection.records} == {
        str(tmp_path / str(row["series_path"]) / "scan.nii.gz") for row in rows[1:3]
    }
    reasons = {row.record.series_path: row.reason for row in selection.unresolved}
    assert reasons == {
        rows[0]["series_path"]: "more_than_one_file",
        rows[3]["series_path"]: "missing_path",
    }
    assert {row.record.nifti_path for row in selection.unresolved} == {""}
    assert selection.report.selected == 4


def test_a_relative_catalogue_gives_absolute_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "archive/PMBB000000/series_0/a.nii")
    write(tmp_path / "a.csv", archive_rows(1, series_each=1))
    monkeypatch.chdir(tmp_path)
    (record,) = load(Path("a.csv")).records
    assert record.nifti_path == str(tmp_path / "archive/PMBB000000/series_0/a.nii")


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason=f"no {SHARED_DATA} beside this checkout: real volumes not at hand")
def test_the_real_archive_resolves_and_its_broken_rows_are_told_apart() -> None:
    real = load(SHARED_DATA / "catalog.csv", drop_time_series=True, drop_localizers=True, drop_derived=True)
    assert len(real.records) == real.report.rows == 34
    assert real.unresolved == []
    bad = load(SHARED_DATA / "bad" / "bad.csv", columns={"pmbb_id": "file"})
    reasons = {row.record.series_path: row.reason for row in bad.unresolved}
    # bad.csv names its folders from the parent folder, so none is found beside it
    assert set(reasons.values()) == {"missing_path"}
    expected = {"bad/two_files": "more_than_one_file", "bad/no_file": "no_file", "bad/missing_dir": "missing_path"}
    for series_path in reasons:
        if series_path in expected:
            with pytest.raises(ScanRejected, match=expected.pop(series_path)):
                resolve_nifti(series_path, SHARED_DATA)
        else:
            assert resolve_nifti(series_path, SHARED_DATA).is_file()
    assert expected == {}


def test_parquet_row_groups_of_any_size_select_the_same(tmp_path: Path) -> None:
    table = pa.table(pl.DataFrame(archive_rows(100)).to_arrow())
    for rows in (1, 300):
        pq.write_table(table, tmp_path / f"{rows}.parquet", row_group_size=rows)
    assert load(tmp_path / "1.parquet") == load(tmp_path / "300.parquet")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"secret-771,CT,/archive/secret-771/s0\nsecret-772,MR,/archive/secret-772/s0\n", "has no header row"),
        (b"pmbb_id,modality,series_path\rsecret-771,CT,a\rsecret-772,MR,b\r", r"line ends of an old Macintosh \(CR\)"),
        (b"pmbb_id;modality;series_path\nsecret-771;CT;a\n", "separates its fields by ';'"),
        (b"pmbb_id\tmodality\tseries_path\nsecret-771\tCT\ta\n", r"separates its fields by '\\t'"),
        ("pmbb_id,modality,series_path\nsecret-771,CT,a\n".encode("utf-16"), "UTF-16"),
        ("pmbb_id,modality,series_path\nsecret-771,CT,a\n".encode("utf-16-le"), "UTF-16"),
    ],
)
def test_a_table_of_another_make_is_recognised_and_not_quoted(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CatalogError, match=told) as caught:
        load(tmp_path / "a.csv")
    assert "secret" not in str(caught.value)
    assert "\0" not in str(caught.value)
    assert "needed: a header row" in str(caught.value)


def test_a_modality_that_is_no_word_is_not_quoted(tmp_path: Path) -> None:
    rows = [row | {"modality": name} for row, name in zip(archive_rows(1), ("MRN771", "MRI", None), strict=True)]
    with pytest.raises(CatalogError, match=r"modalities found: MRI \(1\), blank \(1\), other \(1\)") as caught:
        load(write(tmp_path / "a.csv", rows))
    assert "771" not in str(caught.value)


def test_what_was_left_out_is_said_by_cause(tmp_path: Path) -> None:
    rows = archive_rows(10)
    rows += [rows[0], rows[1] | {"modality": "MRI"}, rows[2] | {"modality": "nan"}, rows[2] | {"modality": " mr "}]
    report = load(write(tmp_path / "a.csv", rows), n_scans=25).report
    assert report.left_out() == {"modality": 2, "duplicate": 2, "beyond_n_scans": 5}
    assert sum(report.left_out().values()) == report.rows - report.selected


def test_a_row_without_a_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    (row,) = load(write(tmp_path / "a.csv", archive_rows(1, series_each=1))).unresolved
    assert row.place == str(tmp_path / "archive/PMBB000000/series_0")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([["HEAD", "NECK"], ["LEG"], None], ["HEAD\\NECK", "LEG", ""]),
        ([[1, 2], [], None], ["1\\2", "", ""]),
        ([[["HEAD"]], None, None], ["", "", ""]),
        ([b"\xff", b"LEG", None], ["", "", ""]),
        ([timedelta(1), None, None], ["", "", ""]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["body_part", "series_description", "exam_type"])
def test_an_optional_column_that_is_no_text_is_joined_or_counts_as_absent(
    column: str, values: list[object], told: list[str], tmp_path: Path
) -> None:
    rows = pl.DataFrame(archive_rows(1)).drop("series_description", "exam_type").with_columns(pl.Series(column, values))
    rows.write_parquet(tmp_path / "a.parquet")
    records, config = chosen(load(tmp_path / "a.parquet")), DataConfig(catalog_path=str(tmp_path / "a.parquet"))
    (batch,) = catalog.described_rows(config, records, ["body_part"])
    text = "series_text" if column != "body_part" else catalog.other_column(column)
    assert batch[text].to_list() == told
    assert batch["scan_id"].null_count() == 0
