"""Train and compare the rows of the study: ``prism study TABLE [--out FOLDER] [--rows NAME ...] [--decide]``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from prism_ssl.errors import CatalogError, PrismError, RunFolderError
from prism_ssl.study.rows import ROWS
from prism_ssl.study.split import patients_on
from prism_ssl.utils.child_command import run_child
from prism_ssl.utils.fs import private_folder, write_atomic

RECIPE = "study"
_SETTINGS_FILE = "study_settings.json"
_OK, _FAILED, _REFUSED, _INTERRUPTED = 0, 1, 2, 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the rows that have not finished, then print the table.

    0 when all rows that were asked for are in it, 1 when one failed, 2 when nothing could begin, 75 when it was
    interrupted and can go on.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words.index("--") if "--" in words else len(words)
    given, settings = _parser().parse_args(words[:own]), words[own + 1 :]
    console, errors = Console(), Console(stderr=True)
    failed = list[str]()
    try:
        folder = given.out.expanduser().absolute() / ("decide" if given.decide else "report")
        table = _prepared(given.table, folder, given.decide)
        for number, name in enumerate(given.rows, start=1):
            console.print(f"row {number} of {len(given.rows)}: {ROWS[name].title}", markup=False)
            code = _train(name, table, folder, settings)
            if code == _INTERRUPTED:
                errors.print("interrupted; run the same command again to go on", style="yellow")
                return _INTERRUPTED
            if code != _OK:
                failed.append(name)
                errors.print(f"row {name} failed with exit code {code}; the table goes without it", style="red")
        shown = _show(folder, table, settings, given.decide, console)
    except (PrismError, OSError) as error:
        errors.print(f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True)
        return _REFUSED
    return _OK if shown and not failed else _FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism study",
        description="Train and compare the rows of the study. Settings for every row follow after --, "
        "as prism train has them.",
    )
    parser.add_argument("table", type=Path, help="catalogue of the study's scans, see docs/public-data.md")
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs and of the table")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=list(ROWS),
        default=list(ROWS)[:1],
        metavar="ROW",
        help=f"what to train: {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--decide",
        action="store_true",
        help="for choosing settings: leave the test patients out, evaluate on the validation patients",
    )
    return parser


def _prepared(given: Path, folder: Path, decide: bool) -> Path:
    """Write the held-out list to ``folder``; with ``decide`` also a table without test patients. Returns the table.

    Raises:
        CatalogError: the table cannot be read, or has nobody to hold out.
    """
    given = given.expanduser().absolute()
    try:
        rows = pl.read_csv(given, infer_schema=False) if given.suffix == ".csv" else pl.read_parquet(given)
        rows = rows.with_columns(pl.col("pmbb_id").cast(pl.String).str.strip_chars(), pl.col("series_path"))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CatalogError(
            f"{given} cannot be read as the study's table ({type(error).__name__}); needed: a .csv or .parquet file "
            "with the columns pmbb_id and series_path, see docs/public-data.md"
        ) from error
    patients = [patient for patient in rows["pmbb_id"].to_list() if patient]
    held_out = patients_on("validation" if decide else "test", patients)
    if not held_out:
        raise CatalogError(
            f"none of the {len(set(patients))} patients of {given} is held out; is it the study's table?"
        )
    private_folder(folder)  # the files below name patients
    write_atomic(folder / "held_out.txt", ("\n".join(held_out) + "\n").encode())
    if not decide:
        return given
    known = {patient for side in ("training", "validation") for patient in patients_on(side, patients)}
    kept = rows.filter(pl.col("pmbb_id").is_in(known))
    absolute = [str(given.parent / path) for path in kept["series_path"].to_list()]  # the new table lies elsewhere
    write_atomic(folder / "catalog.csv", kept.with_columns(series_path=pl.Series(absolute)).write_csv().encode())
    return folder / "catalog.csv"


def _train(name: str, table: Path, folder: Path, settings: Sequence[str]) -> int:
    """Exit code of the row's training, 75 if a stop signal came; 0 at once if it has finished with these settings.

    The row's own settings, its scans and its folder come last, so that none of ``settings`` changes what a row is.
    """
    run_dir, asked = folder / "runs" / name, _asked(name, table, folder, settings)
    if _finished(run_dir):
        _refuse_other_settings(run_dir, _settings_told(asked))
        return _OK
    private_folder(run_dir)
    _note_settings(run_dir, _settings_told(asked))  # before it trains: a kill afterwards loses nothing
    code, stopped = run_child("prism_ssl.cli.main", ["train", RECIPE, *asked])
    return _INTERRUPTED if stopped else code


def _asked(name: str, table: Path, folder: Path, settings: Sequence[str]) -> list[str]:
    asked = [*settings, *ROWS[name].options(), f"--data.catalog-path={table}"]
    return [
        *asked,
        f"--data.holdout-file={folder / 'held_out.txt'}",
        f"--run.root={folder / 'runs'}",
        f"--run.name={name}",
    ]


def _settings_told(asked: Sequence[str]) -> list[str]:
    """The options of a row, and the recipe's hash: that of another version may differ under equal options."""
    from prism_ssl.config.defaults import RECIPES, known_keys
    from prism_ssl.utils.hashing import content_hash

    recipe = content_hash({key: str(value) for key, value in known_keys(RECIPES[RECIPE]()).items()})
    return [*asked, f"recipe {RECIPE} {recipe}"]


def _note_settings(run_dir: Path, asked: Sequence[str]) -> None:
    from prism_ssl.records.run_files import write_json

    write_json(run_dir / _SETTINGS_FILE, list(asked))


def _noted_settings(run_dir: Path) -> list[str] | None:
    """What ``_note_settings`` wrote; None: nothing that can be read."""
    try:
        noted: list[str] = json.loads((run_dir / _SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted


def _refuse_other_settings(run_dir: Path, asked: Sequence[str]) -> None:
    before = _noted_settings(run_dir)
    if before != list(asked):
        raise RunFolderError(
            f"row {run_dir.name} has finished in {run_dir} with other settings ({before}); "
            f"now asked for: {list(asked)}; use the same ones, or another --out"
        )


def _finished(run_dir: Path) -> bool:
    from prism_ssl.records.run_files import read_summary

    summary = read_summary(run_dir) if run_dir.exists() else None
    return summary is not None and summary.status == "ok"


def _comparable(folder: Path, table: Path, settings: Sequence[str], console: Console) -> list[str]:
    """The rows that have finished with these settings; says which ones have others."""
    rows = list[str]()
    for name in (name for name in ROWS if _finished(folder / "runs" / name)):
        if _noted_settings(folder / "runs" / name) == _settings_told(_asked(name, table, folder, settings)):
            rows.append(name)
        else:
            console.print(f"row {name} is left out: it was trained with other settings", style="yellow")
    return rows


def _show(folder: Path, table_file: Path, settings: Sequence[str], decide: bool, console: Console) -> bool:
    """Print and write the table of the rows that have finished with these settings; False where there is none."""
    from prism_ssl.eval.quality.evidence import read_evidence
    from prism_ssl.records.run_files import read_summary
    from prism_ssl.study.picture import write_picture
    from prism_ssl.study.results import PLACE, POSE, REST, markdown, table

    finished = _comparable(folder, table_file, settings, console)
    summaries = {name: read_summary(folder / "runs" / name) for name in finished}
    probes = {name: summary.probe for name, summary in summaries.items() if summary is not None and summary.probe}
    if not probes:
        return False
    read = {name: read_evidence(folder / "runs" / name) for name in probes}
    found = {name: evidence for name, evidence in read.items() if evidence is not None}
    lines = table(probes, found)
    console.print(f"{'validation' if decide else 'test'} patients, none of them trained on")
    for columns in (PLACE, POSE, REST):
        shown = Table()
        for column in ("row", *columns):
            shown.add_column(column)
        for line in lines:
            if any(line[column] != "-" for column in columns):
                shown.add_row(*(line[column] for column in ("row", *columns)))
        console.print(shown)
    write_atomic(folder / "results.md", markdown(lines).encode())
    write_picture(folder / "results.png", found, next(iter(probes.values())).get("place_recall_at_1_chance"))
    console.print(f"table: {folder / 'results.md'}   picture: results.png beside it", markup=False, soft_wrap=True)
    console.print(f"runs: {folder / 'runs'}", markup=False, soft_wrap=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
