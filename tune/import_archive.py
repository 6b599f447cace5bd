"""Import DICOM folders as an archive: ``prism import FOLDER ... --out ARCHIVE``."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take seconds
    from prism_ssl.utils.stop_signals import leave_on_stop_signals

    leave_on_stop_signals()

import argparse
import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from prism_ssl.cli.catalog_options import EXIT_NO, EXIT_OK, refused
from prism_ssl.config.operations import PreflightConfig
from prism_ssl.errors import ConfigError, PrismError
from prism_ssl.utils.fs import owned_folder, temporary_root
from prism_ssl.utils.ray_cluster.session import ray_environment, ray_session
from prism_ssl.utils.ray_cluster.stderr_filter import stderr_without
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED, leave, stop_signals_interrupt
from prism_ssl.utils.terminal import failsafe_output
from prism_ssl.utils.time import format_duration

if TYPE_CHECKING:
    from prism_ssl.data.dicom import ImportReport, ImportRequest, Spread

_OBJECT_STORE_BYTES = 2**30


def main(arguments: Sequence[str] | None = None) -> int:
    """Import what is new and print a summary; 0 when the archive has any series, 1 without, 2 when it could not begin,
    75 when interrupted (the same command goes on)."""
    given = _parser().parse_args(arguments)
    with failsafe_output(), stop_signals_interrupt():
        console, started = Console(), time.monotonic()
        try:
            if importlib.util.find_spec("pydicom") is None:
                raise ConfigError(
                    "pydicom is not installed; needed: make install, or pip install -e '.[dicom]' in the clone"
                )
            request, tmp_root = _request(given), temporary_root(given.tmp_root)
            with ray_environment(tmp_root):
                report = _import(request, tmp_root, given.concurrency)
        except (PrismError, OSError) as error:
            return refused(error)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; run the same command again to go on", style="yellow")
            return EXIT_INTERRUPTED
        show(report, request, time.monotonic() - started, console)
        return EXIT_OK if report.volumes else EXIT_NO


def _request(given: argparse.Namespace) -> ImportRequest:
    from prism_ssl.data.dicom import ImportRequest

    out = given.out.expanduser().resolve()
    private = given.private.expanduser().resolve() if given.private else out.with_name(f"{out.name}.private")
    if given.concurrency is not None and given.concurrency < 1:
        raise ConfigError(f"--concurrency is {given.concurrency}; needed: 1 or more")
    folders = tuple(folder.expanduser().resolve() for folder in given.folders)
    modalities = tuple(sorted({modality.upper() for modality in given.modalities}))
    return ImportRequest(folders, out, private, modalities, given.min_slices, given.keep_descriptions)


def _import(request: ImportRequest, tmp_root: Path, concurrency: int | None) -> ImportReport:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray reads its environment at its first import
    from prism_ssl.data.dicom import import_dicom

    with contextlib.ExitStack() as session:
        with stderr_without("Set ray log level from environment"):  # set above
            session.enter_context(ray_session(2, _OBJECT_STORE_BYTES, tmp_root))
        scratch = session.enter_context(owned_folder(tmp_root / "import"))
        return import_dicom(request, over_the_cluster(concurrency), scratch)


def over_the_cluster(concurrency: int | None) -> Spread:
    """Work on items over Ray's cluster, with at most ``concurrency`` tasks at once, or one for each CPU."""
    from prism_ssl.utils.isolated_map import items_per_task, map_rows, survey, tasks_at_once

    at_once = concurrency or tasks_at_once()

    def spread(
        items: Sequence[dict[str, Any]], work: Callable[[dict[str, Any]], dict[str, Any]], most: int
    ) -> Iterator[dict[str, Any]]:
        per_task = items_per_task(len(items), at_once, most)
        return survey(items, "key", lambda data, width: map_rows(data, work, width), per_task, at_once)

    return spread


def show(report: ImportReport, request: ImportRequest, seconds: float, console: Console) -> None:
    """Print what is in the archive, what was left out and why, and what to do next."""
    from prism_ssl.data.dicom import CATALOG_FILE, LEFT_OUT_FILE

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    table = Table("", "series", title=None)
    for modality, count in sorted(report.volumes.items()):
        table.add_row(modality, str(count))
    for reason, count in report.left_out.most_common():
        table.add_row(f"left out: {reason}", str(count), style="yellow")
    for reason, count in report.files.most_common():
        table.add_row(f"files without a header: {reason}", str(count), style="dim")
    console.print(table)
    catalog = request.out / CATALOG_FILE
    say(
        f"{catalog}: {report.volumes.total()} series of {report.patients} patients; {report.read} files read and "
        f"{report.converted} series converted now, in {format_duration(seconds)}"
    )
    if report.left_out:
        say(f"left out: {request.out / LEFT_OUT_FILE}; what each reason means is in docs/import.md")
    if report.without_patient:
        say(f"{report.without_patient} series name no patient (PatientID); their study counts as the patient")
    say(f"salt and key to the ids: {request.private}; keep that folder, and never give it away with the archive")
    if report.volumes:
        say(f"next: prism check --data.catalog-path {catalog}")
        say(f"      prism train phantom-cpu --data.catalog-path {catalog}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prism import",
        description="Find CT and MR series in DICOM folders, convert them to NIfTI, and write the archive's table. "
        "No name, date or id of DICOM is in it. Run the same command again to go on; it touches only what is new.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="folder, zip or tar file with DICOM files"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="ARCHIVE", help="the archive")
    parser.add_argument(
        "--private",
        type=Path,
        help="folder of the salt, the key to the ids and what was read; default: ARCHIVE.private",
    )
    parser.add_argument(
        "--modality", dest="modalities", nargs="+", default=["CT", "MR"], help="modalities to keep (default: CT MR)"
    )
    parser.add_argument(
        "--min-slices",
        type=int,
        default=PreflightConfig().min_slices,
        metavar="N",
        help="fewest slices of a volume (default: %(default)s, as preflight needs)",
    )
    parser.add_argument(
        "--keep-descriptions",
        action="store_true",
        help="keep descriptions of series and studies whole; people type names into them",
    )
    parser.add_argument("--concurrency", type=int, help="conversions at once; default: one for each CPU")
    parser.add_argument("--tmp-root", help="folder for temporary files; default: /tmp/$USER")
    return parser


if __name__ == "__main__":
    leave(main())
