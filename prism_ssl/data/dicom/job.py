"""Import DICOM folders into an archive: read headers, judge series, convert volumes, write the tables.

The ledger keeps each step, so that the same command goes on after a kill, and touches only what is new.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from prism_ssl.data.dicom.catalog_rows import CATALOG_FILE, ids_of, reduced, rows_in, volume_row, write_tables
from prism_ssl.data.dicom.converter import converter_version
from prism_ssl.data.dicom.files import Found, Headers, Place, files_below, headers_of, read_file
from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.ledger import (
    Entry,
    Ledger,
    has_begun,
    ledger_failures_named,
    ledger_of_renamed,
)
from prism_ssl.data.dicom.one_volume import Job, bring, job_of
from prism_ssl.data.dicom.pseudonyms import SALT_FILE, Pseudonyms, pseudonyms_in
from prism_ssl.data.dicom.reasons import OF_GEOMETRY, TRANSIENT, LeftOut, Refusal
from prism_ssl.data.dicom.request import ImportReport, ImportRequest
from prism_ssl.data.dicom.texts import modality
from prism_ssl.data.dicom.volumes import Part, volumes_of
from prism_ssl.errors import CatalogError, ConfigError, MachineTrouble, ScanRejected
from prism_ssl.utils.fs import FolderLock, private_folder, write_atomic
from prism_ssl.utils.hashing import content_hash
from prism_ssl.utils.progress import with_progress

RULES_VERSION = 7
"""Increased whenever some series is judged differently, so that an archive's series are judged again."""
OWNER_FILE = ".import"
"""In the archive: tells with which salt its ids were made."""
_FILES_AT_ONCE, _SERIES_AT_ONCE, _VOLUMES_AT_ONCE = 20_000, 256, 1_000
_FILES_PER_TASK, _VOLUMES_PER_TASK = 256, 2

Item = dict[str, Any]
Spread = Callable[[Sequence[Item], Callable[[Item], Item], int], Iterator[Item]]
"""Maps items (each with a "key") to rows with that key, in any order, at most so many items in one task; an item that
kills its task has no row."""


def import_dicom(request: ImportRequest, spread: Spread, scratch: Path) -> ImportReport:
    """Import what is new below the folders, and write ``catalog.parquet`` and ``left_out.csv``.

    Args:
        request: folders, archive, private folder and rules; see ``ImportRequest``.
        spread: how to work on many items.
        scratch: a folder for temporary files that every task can reach.

    Raises:
        CatalogError: a folder does not exist.
        ConfigError: dcm2niix is missing, another import is using the private folder, archive and private folder do not
            belong together, or the key cannot be read and is the only source of some lines.
        MachineTrouble: no space is left.
    """
    for folder in request.folders:
        if not folder.exists():
            raise CatalogError(f"{folder} does not exist; needed: folders (or zip and tar files) with DICOM files")
    converter_version()
    request.out.mkdir(parents=True, exist_ok=True)
    _refuse_folder_of_others(request.private)
    lock = FolderLock(private_folder(request.private))
    if not lock.acquire():
        raise ConfigError(f"another import is using {request.private}; wait for it, or choose another --private")
    try:
        earlier = [] if has_begun(_ledger_file(request)) else _earlier_rows(request)
        _rename_ledger(request, {row["series_id"] for row in earlier})
        ledger = Ledger(_ledger_file(request), _settings(request), request.out)
    except ConfigError:
        lock.release()
        raise
    try:
        with ledger_failures_named(request.private):
            pseudonyms = pseudonyms_in(request.private, ledger.begun or (request.out / OWNER_FILE).exists())
            _own(request, pseudonyms, ledger.begun)
            if not ledger.begun:
                ledger.adopt(earlier)
            return _import(request, spread, scratch, ledger, pseudonyms)
    finally:
        ledger.close()
        lock.release()


def _import(
    request: ImportRequest, spread: Spread, scratch: Path, ledger: Ledger, pseudonyms: Pseudonyms
) -> ImportReport:
    read = _read_headers(request, spread, ledger)
    ledger.reopen(partial(_is_there, out=request.out))
    without_patient = _judge_series(request, ledger, pseudonyms)
    converted = _convert(request, spread, scratch, ledger)
    kept, left = [row for row in ledger.kept() if _is_there(row, request.out)], ledger.left_out()
    if not request.keep_descriptions:
        kept = [reduced(row) for row in kept]  # some may be of an import that kept them, and their headers are gone
    write_tables(request.out, kept, left)
    _write_key(request, ledger)
    return ImportReport(
        volumes=Counter(row["modality"] for row in kept),
        patients=len({row["pmbb_id"] for row in kept}),
        left_out=Counter(row["reason"] for row in left),
        files=ledger.files_left_out(),
        read=read,
        converted=converted,
        without_patient=without_patient,
    )


def _refuse_folder_of_others(private: Path) -> None:
    """It becomes a folder that nobody else may enter: no other files may be in it."""
    names = {path.name for path in private.iterdir()} - {".lock"} if private.is_dir() else set()
    if names and SALT_FILE not in names and not any(name.endswith(".sqlite") for name in names):
        raise ConfigError(f"--private {private} holds other files; needed: a new or empty folder, or that of an import")


def _own(request: ImportRequest, pseudonyms: Pseudonyms, begun: bool) -> None:
    """Note in the archive which salt made its ids; refuse an archive of another salt, or a table of no known import."""
    file, told = request.out / OWNER_FILE, pseudonyms.of("A", "archive")
    if file.exists():
        if file.read_text(encoding="utf-8").strip() != told:
            raise ConfigError(
                f"the ids of the archive {request.out} were made with another salt than that in {request.private}; "
                "needed: the --private of the first import, or another --out"
            )
    elif (request.out / CATALOG_FILE).exists() and not begun:
        raise ConfigError(
            f"{request.out / CATALOG_FILE} was written by no import that {request.private} knows; needed: another "
            "--out, or the --private of that import"
        )
    else:
        write_atomic(file, f"{told}\n".encode())


def _earlier_rows(request: ImportRequest) -> list[dict[str, Any]]:
    """Rows of an import's table, of volumes that are in the archive."""
    rows = rows_in(request.out) if (request.out / OWNER_FILE).exists() else []
    return [row for row in rows if _is_there(row, request.out)]


def _rename_ledger(request: ImportRequest, volumes: Collection[str]) -> None:
    """Give the ledger and the key of an archive that was renamed its new name."""
    file = _ledger_file(request)
    earlier = ledger_of_renamed(file, volumes)
    if earlier is not None:
        key = earlier.with_name(f"{earlier.stem}.key.csv")
        if key.exists() and not key_file(request).exists():
            key.replace(key_file(request))
        earlier.replace(file)


def _ledger_file(request: ImportRequest) -> Path:
    return request.private / f"{request.out.name}.sqlite"


def key_file(request: ImportRequest) -> Path:
    """The key to the archive's ids; other archives may have the same private folder."""
    return request.private / f"{request.out.name}.key.csv"


def _settings(request: ImportRequest) -> str:
    return content_hash([RULES_VERSION, *request.modalities, request.min_slices, request.keep_descriptions])


def _file_of(row: dict[str, Any], out: Path) -> Path:
    return out.joinpath(row["series_path"], f"{row['series_id']}.nii.gz")


def _is_there(row: dict[str, Any], out: Path) -> bool:
    return _file_of(row, out).is_file()


# ---------------------------------------------------------------------- headers
def _read_headers(request: ImportRequest, spread: Spread, ledger: Ledger) -> int:
    """Read the headers of all files that are new or changed; returns how many files."""
    ledger.forget_unreadable()
    below = files_below(request.folders, without=(request.out, request.private))
    new = [found for found in below if not ledger.knows(found)]

    def read(item: Item) -> Item:
        headers = headers_of(read_file(Found(*json.loads(item["found"]))))
        return {"key": item["key"], "told": json.dumps(headers)}

    def readings() -> Iterator[Headers]:
        for start in range(0, len(new), _FILES_AT_ONCE):
            bundle = {str(number): found for number, found in enumerate(new[start : start + _FILES_AT_ONCE])}
            items = [{"key": key, "found": json.dumps(found)} for key, found in bundle.items()]
            for row in spread(items, read, _FILES_PER_TASK):
                del bundle[row["key"]]
                yield Headers(*json.loads(row["told"]))
            for found in bundle.values():  # each killed its task twice, maybe for lack of memory
                yield Headers(*found, [], {LeftOut.NOT_READABLE: 1})

    found = with_progress(readings(), len(new), "headers", lambda each: bool(each.instances), ("DICOM", "other"))
    for batch in _batched(found, _FILES_PER_TASK):
        ledger.add(batch)
    return len(new)


def _batched(readings: Iterator[Headers], size: int) -> Iterator[list[Headers]]:
    while batch := list(itertools.islice(readings, size)):
        yield batch


# ---------------------------------------------------------------------- series
def _judge_series(request: ImportRequest, ledger: Ledger, pseudonyms: Pseudonyms) -> int:
    """Judge all series with new files; returns how many of them have volumes and name no patient."""
    nameless, unjudged = 0, ledger.unjudged()
    for start in range(0, len(unjudged), _SERIES_AT_ONCE):
        gone = list[str]()
        with ledger.batch():
            for series in unjudged[start : start + _SERIES_AT_ONCE]:
                known = ledger.instances(series)
                there = [each for each in known if os.path.exists(each.path)]  # noqa: PTH110  never raises
                parts, some_gone = _parts(known, there, request)
                entry_of = partial(_entry, series=series, request=request, pseudonyms=pseudonyms)
                sound: dict[str, int] | None = None
                if some_gone:  # what was made of them stays
                    whole = volumes_of(known, (known[0].modality,), min_slices=2)
                    ledger.tell_anew(series, map(entry_of, whole))
                    if not there:
                        continue
                    entries = map(entry_of, _sound(known, request) if _any_bad(parts) else [])
                    sound = {each.volume: each.files for each in entries}
                is_there = partial(_is_there, out=request.out)
                gone += ledger.judge(series, list(map(entry_of, parts)), is_there, sound)
                nameless += any(part.stack is not None and not part.instances[0].patient for part in parts)
        for path in gone:
            _remove(request.out / path)
    return nameless


def _parts(known: Sequence[Instance], there: Sequence[Instance], request: ImportRequest) -> tuple[list[Part], bool]:
    """The parts of a series, divided as if no file were gone (of one with a file that is gone: what is left of it), and
    whether any is gone."""
    paths = {each.path for each in there}
    parts, some_gone = list[Part](), False
    for part in volumes_of([*there, *known], request.modalities, request.min_slices):
        left = [each for each in part.instances if each.path in paths]
        if len(left) == len(part.instances):
            parts.append(part)
        else:
            some_gone = True
            parts += _left_of(part, left, request)
    return parts, some_gone


def _sound(known: Sequence[Instance], request: ImportRequest) -> list[Part]:
    """The parts that the files of a series make without those that are bad by themselves."""
    good = [each for each in known if not _any_bad(volumes_of([each], request.modalities, min_slices=2))]
    return volumes_of(good, request.modalities, min_slices=2)


def _any_bad(parts: Iterable[Part]) -> bool:
    return any(part.refusal is not None and part.refusal.reason not in OF_GEOMETRY for part in parts)


def _left_of(part: Part, left: Sequence[Instance], request: ImportRequest) -> list[Part]:
    """What the files that are there make of a part; under its name, so that it takes the place of no other volume.

    Example: what is left of "K grid 1 acquisition 2" would be "K grid 0" by itself, which is another orientation's
    name; it is "K grid 1 acquisition 2" too.
    """
    found = volumes_of(left, request.modalities, request.min_slices)
    if part.instances[0].multi_frame or _any_bad([part, *found]):
        return found  # named by its files, or by what all slices share
    ends = [each.name.partition(" grid ")[2].partition(" ")[2] for each in found]
    if len(found) > 1 and (part.stack is not None or len(set(ends)) < len(ends)):
        told = f"{len(part.instances) - len(left)} of {len(part.instances)} files are gone"
        return [Part(part.name, tuple(left), refusal=part.refusal or Refusal(LeftOut.MISSING_SLICES, told))]
    return [replace(each, name=f"{part.name} {end}".strip()) for each, end in zip(found, ends, strict=True)]


def _entry(part: Part, series: str, request: ImportRequest, pseudonyms: Pseudonyms) -> Entry:
    ids = ids_of(part.instances[0], series, part.name, pseudonyms)
    row: dict[str, Any] = ids | {"modality": modality(part.instances[0].modality)}
    if part.stack is None:
        assert part.refusal is not None
        reason, detail = part.refusal.reason, part.refusal.detail
        return Entry(ids["series_id"], part.name, "", reason, detail, len(part.instances), row, None)
    files = [(*each.told()[:3], each.size, each.mtime_ns) for each in part.instances]
    signature = content_hash([converter_version(), files])
    row = volume_row(part, ids, request.keep_descriptions)
    job = job_of(part, ids["series_id"], str(_file_of(row, Path())))
    return Entry(ids["series_id"], part.name, signature, None, "", len(files), row, json.dumps(asdict(job)))


def _remove(folder: Path) -> None:
    """Remove a series that is none any more, and its patient's folder if that is empty."""
    for file in folder.glob("*.nii.gz"):
        file.unlink()
    for empty in (folder, folder.parent):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


# ---------------------------------------------------------------------- volumes
def _convert(request: ImportRequest, spread: Spread, scratch: Path, ledger: Ledger) -> int:
    """Convert all volumes that are not in the archive; returns how many are now."""
    pending, root, out = ledger.pending(), str(scratch), request.out

    def convert(item: Item) -> Item:
        reason = detail = trouble = ""
        try:
            bring(_job(item["job"], out), root)
        except ScanRejected as rejected:
            reason, detail = rejected.reason, rejected.detail
        except MachineTrouble as error:
            trouble = str(error)
        return {"key": item["key"], "reason": reason, "detail": detail, "trouble": trouble}

    def outcomes() -> Iterator[Item]:
        for start in range(0, len(pending), _VOLUMES_AT_ONCE):
            bundle = dict.fromkeys(pending[start : start + _VOLUMES_AT_ONCE])
            items = [{"key": volume, "job": ledger.job(volume)} for volume in bundle]
            for row in spread(items, convert, _VOLUMES_PER_TASK):
                del bundle[row["key"]]
                yield row
            for volume in bundle:
                detail = "the process that converted it was killed twice; too little memory?"
                yield {"key": volume, "reason": LeftOut.CONVERSION_CRASHED, "detail": detail, "trouble": ""}

    made = 0
    for row in with_progress(
        outcomes(), len(pending), "volumes", lambda each: not each["reason"], ("converted", "left out")
    ):
        if row["trouble"]:
            raise MachineTrouble(f"the import of {request.out} stopped: {row['trouble']}; the same command goes on")
        job = _job(ledger.job(row["key"]), request.out)
        target, reason = Path(job.target), row["reason"] or None
        if reason and target.is_file():  # an earlier import made it
            there = all(os.path.exists(place.path) for place in job.places)  # noqa: PTH110  never raises
            if (reason in TRANSIENT or not there) and ledger.go_back(row["key"]):
                continue
            if there:
                _remove(target.parent)
            else:
                reason = None  # it was killed before it could tell
        ledger.settle(row["key"], reason, row["detail"] if reason else "")
        made += reason is None
    return made


def _job(text: str, out: Path) -> Job:
    told = json.loads(text)
    told["target"] = str(out / told["target"])
    told["places"] = tuple(Place(*place) for place in told["places"])
    told["shape"] = tuple(told["shape"])
    return Job(**told)


def _write_key(request: ImportRequest, ledger: Ledger) -> None:
    """The key that leads from the archive's ids back to patients and folders; it stays in the private folder.

    Lines of volumes of which no header is known stay as they are; those of a renamed archive may be in another key.
    """
    file, columns = key_file(request), ("pmbb_id", "series_id", "PatientID", "SeriesInstanceUID", "folder")
    rows = {row[1]: [*row[:4], str(Path(row[4]).parent)] for row in ledger.sources()}
    unknown = {row["series_id"] for row in ledger.kept()} - rows.keys()
    keys = sorted(request.private.glob("*.key.csv"), key=lambda each: each == file) if unknown else []  # its own last
    for key in keys:
        try:
            with key.open(encoding="utf-8", errors="backslashreplace", newline="") as lines:
                rows |= {row[1]: row for row in csv.reader(lines) if len(row) == len(columns) and row[1] in unknown}
        except csv.Error as error:
            if key == file:  # it would be written over
                raise ConfigError(
                    f"the key {key} cannot be read ({error}); needed: a whole CSV file, for volumes whose DICOM is "
                    "not known; mend it, or move it away; the archive itself is complete"
                ) from error
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([columns, *rows.values()])
    write_atomic(file, text.getvalue().encode("utf-8", "backslashreplace"))
    file.chmod(0o600)
