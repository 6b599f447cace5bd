"""Train and compare the rows of the study: ``prism study TABLE [--out FOLDER] [--rows NAME ...] [--decide]``."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from prism_ssl.errors import CatalogError, PrismError
from prism_ssl.study.rows import ROWS
from prism_ssl.study.split import patients_on

RECIPE = "study"
_OK, _FAILED, _REFUSED, _INTERRUPTED = 0, 1, 2, 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the rows that have not finished, then print the table; 75 when it was interrupted and can go on."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = words.index("--") if "--" in words else len(words)
    given, settings = _parser().parse_args(words[:own]), words[own + 1 :]
    console, errors = Console(), Console(stderr=True)
    try:
        folder = given.out / ("decide" if given.decide else "report")
        table = _prepared(given.table, folder, given.decide)
        for number, name in enumerate(given.rows, start=1):
            console.print(f"row {number} of {len(given.rows)}: {ROWS[name].title}", markup=False)
            code = _train(name, table, folder, settings)
            if code == _INTERRUPTED:
                errors.print("interrupted; run the same command again to go on", style="yellow")
                return _INTERRUPTED
            if code != _OK:
                errors.print(f"row {name} failed with exit code {code}; the table goes without it", style="red")
    except (PrismError, OSError) as error:
        errors.print(f"{type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True)
        return _REFUSED
    return _show(folder, given.decide, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism study",
        description="Train and compare the rows of the study. Settings for every row follow after --, "
        "as prism train has them.",
    )
    parser.add_argument("table", type=Path, help="catalogue of the study's scans, see docs/public-data.md")
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the runs and of the table")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS)[:1], help="what to train")
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
        patients = rows["pmbb_id"].cast(pl.String).to_list()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CatalogError(
            f"{given} cannot be read as the study's table ({type(error).__name__}); "
            "needed: a .csv or .parquet file with the column pmbb_id, see docs/public-data.md"
        ) from error
    held_out = patients_on("validation" if decide else "test", patients)
    if not held_out:
        raise CatalogError(
            f"none of the {len(set(patients))} patients of {given} is held out; is it the study's table?"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "held_out.txt").write_text("\n".join(held_out) + "\n", encoding="utf-8")
    if not decide:
        return given
    known = {patient for side in ("training", "validation") for patient in patients_on(side, patients)}
    absolute = pl.lit(f"{given.parent}/") + pl.col("series_path")  # paths of the new table start at another folder
    table = folder / "catalog.csv"
    rows.filter(pl.col("pmbb_id").cast(pl.String).is_in(known)).with_columns(series_path=absolute).write_csv(table)
    return table


def _train(name: str, table: Path, folder: Path, settings: Sequence[str]) -> int:
    """Exit code of the row's training; a stop signal reaches it, too."""
    words = [f"--{key}={value}" for key, value in ROWS[name].settings.items()]
    command = [sys.executable, "-m", "prism_ssl.cli.main", "train", RECIPE, f"--data.catalog-path={table}"]
    command += [f"--data.holdout-file={folder / 'held_out.txt'}", f"--run.root={folder / 'runs'}", f"--run.name={name}"]
    if _finished(folder / "runs" / name):
        return _OK
    with subprocess.Popen([*command, *words, *settings]) as training:
        before = {each: signal.signal(each, lambda number, _: training.send_signal(number)) for each in _PASSED_ON}
        try:
            return training.wait()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


_PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
"""Stop signals that the training would not receive by itself; Ctrl-C reaches the whole group."""


def _finished(run_dir: Path) -> bool:
    from prism_ssl.records.run_files import read_summary

    summary = read_summary(run_dir) if run_dir.exists() else None
    return summary is not None and summary.status == "ok"


def _show(folder: Path, decide: bool, console: Console) -> int:
    from prism_ssl.eval.quality.evidence import read_evidence
    from prism_ssl.records.run_files import read_summary
    from prism_ssl.study.results import PLACE, REST, markdown, table

    summaries = {name: read_summary(folder / "runs" / name) for name in ROWS if (folder / "runs" / name).exists()}
    probes = {name: summary.probe for name, summary in summaries.items() if summary is not None and summary.probe}
    if not probes:
        return _FAILED
    found = {name: read_evidence(folder / "runs" / name) for name in probes}
    lines = table(probes, {name: evidence for name, evidence in found.items() if evidence is not None})
    console.print(f"{'validation' if decide else 'test'} patients, none of them trained on")
    for columns in (PLACE, REST):
        shown = Table()
        for column in ("row", *columns):
            shown.add_column(column)
        for line in lines:
            if any(line[column] != "-" for column in columns):
                shown.add_row(*(line[column] for column in ("row", *columns)))
        console.print(shown)
    (folder / "results.md").write_text(markdown(lines), encoding="utf-8")
    console.print(f"table: {folder / 'results.md'}   runs: {folder / 'runs'}", markup=False, soft_wrap=True)
    return _OK if set(probes) >= set(summaries) else _FAILED


if __name__ == "__main__":
    sys.exit(main())
