"""Import DICOM folders into an archive: read headers, judge series, convert volumes, write the tables.

The ledger keeps each step, so that the same command goes on after a kill, and touches only what is new.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prism_ssl.data.dicom.catalog_rows import CATALOG_FILE, ids_of, volume_row, write_tables
from prism_ssl.data.dicom.converter import converter_version
from prism_ssl.data.dicom.files import Found, Place, Reading, files_below, read_file
from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.ledger import Entry, Ledger, ledger_failures_named
from prism_ssl.data.dicom.one_volume import Job, bring
from prism_ssl.data.dicom.pseudonyms import SALT_FILE, Pseudonyms, pseudonyms_in
from prism_ssl.data.dicom.reasons import LeftOut
from prism_ssl.data.dicom.request import ImportReport, ImportRequest
from prism_ssl.data.dicom.texts import modality
from prism_ssl.data.dicom.volumes import Part, volumes_of
from prism_ssl.errors import CatalogError, ConfigError, MachineTrouble, ScanRejected
from prism_ssl.utils.fs import FolderLock, private_folder, write_atomic
from prism_ssl.utils.hashing import content_hash
from prism_ssl.utils.progress import with_progress

RULES_VERSION = 3
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
        request: see there.
        spread: how to work on many items.
        scratch: a folder for temporary files that every task can reach.

    Raises:
        CatalogError: a folder does not exist.
        ConfigError: dcm2niix is missing, another import is using the private folder, or archive and private folder do
            not belong together.
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
        ledger = Ledger(_ledger_file(request), _settings(request), request.out)
    except ConfigError:
        lock.release()
        raise
    try:
        with ledger_failures_named(request.private):
            pseudonyms = pseudonyms_in(request.private, ledger.begun or (request.out / OWNER_FILE).exists())
            _own(request, pseudonyms, ledger.begun)
            return _import(request, spread, scratch, ledger, pseudonyms)
    finally:
        ledger.close()
        lock.release()


def _import(
    request: ImportRequest, spread: Spread, scratch: Path, ledger: Ledger, pseudonyms: Pseudonyms
) -> ImportReport:
    read = _read_headers(request, spread, ledger)
    ledger.reopen(lambda row: _file_of(row, request.out).is_file())
    without_patient = _judge_series(request, ledger, pseudonyms)
    converted = _convert(request, spread, scratch, ledger)
    kept, left = ledger.kept(), ledger.left_out()
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
    """Note in the archive whose it is; refuse that of another salt, or a table that no import wrote."""
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


def _ledger_file(request: ImportRequest) -> Path:
    return request.private / f"{request.out.name}.sqlite"


def key_file(request: ImportRequest) -> Path:
    """The key to the archive's ids; other archives may have the same private folder."""
    return request.private / f"{request.out.name}.key.csv"


def _settings(request: ImportRequest) -> str:
    return content_hash([RULES_VERSION, *request.modalities, request.min_slices, request.keep_descriptions])


def _file_of(row: dict[str, Any], out: Path) -> Path:
    return out.joinpath(row["series_path"], f"{row['series_id']}.nii.gz")


# ---------------------------------------------------------------------- headers
def _read_headers(request: ImportRequest, spread: Spread, ledger: Ledger) -> int:
    """Read the headers of all files that are new or changed; returns how many files."""
    ledger.forget_unreadable()
    below = files_below(request.folders, without=(request.out, request.private))
    new = [found for found in below if not ledger.knows(found)]

    def read(item: Item) -> Item:
        reading = read_file(Found(*json.loads(item["found"])))
        told = reading._asdict() | {"instances": [each.to_json() for each in reading.instances]}
        return {"key": item["key"], "told": json.dumps(told)}

    def readings() -> Iterator[Reading]:
        for start in range(0, len(new), _FILES_AT_ONCE):
            bundle = {str(number): found for number, found in enumerate(new[start : start + _FILES_AT_ONCE])}
            items = [{"key": key, "found": json.dumps(found)} for key, found in bundle.items()]
            for row in spread(items, read, _FILES_PER_TASK):
                del bundle[row["key"]]
                yield _reading(row["told"])
            for found in bundle.values():  # each killed its task twice
                yield Reading(*found, [], {LeftOut.DAMAGED_HEADER: 1})

    found = with_progress(readings(), len(new), "headers", lambda each: bool(each.instances), ("DICOM", "other"))
    for batch in _batched(found, _FILES_PER_TASK):
        ledger.add(batch)
    return len(new)


def _reading(text: str) -> Reading:
    told = json.loads(text)
    return Reading(**told | {"instances": [Instance.from_json(each) for each in told["instances"]]})


def _batched(readings: Iterator[Reading], size: int) -> Iterator[list[Reading]]:
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
                if known and not there:  # all its files are gone: what was made of them stays
                    parts = volumes_of(known, (known[0].modality,), min_slices=2)
                    ledger.tell_anew(series, [_entry(part, series, request, pseudonyms) for part in parts])
                    continue
                parts = volumes_of(there, request.modalities, request.min_slices)
                entries = [_entry(part, series, request, pseudonyms) for part in parts]
                gone += ledger.judge(series, entries, lambda row: _file_of(row, request.out).is_file())
                nameless += any(part.stack is not None and not part.instances[0].patient for part in parts)
        for path in gone:
            _remove(request.out / path)
    return nameless


def _entry(part: Part, series: str, request: ImportRequest, pseudonyms: Pseudonyms) -> Entry:
    ids = ids_of(part.instances[0], series, part.name, pseudonyms)
    row: dict[str, Any] = ids | {"modality": modality(part.instances[0].modality)}
    if part.stack is None:
        assert part.refusal is not None
        reason, detail = part.refusal.reason, part.refusal.detail
        return Entry(ids["series_id"], "", reason, detail, len(part.instances), row, None)
    files = [(*each.told()[:3], each.size, each.mtime_ns) for each in part.instances]
    signature = content_hash([converter_version(), files])
    row = volume_row(part, ids, request.keep_descriptions)
    shape = (row["columns"], row["rows"], row["slices"])
    affine = tuple(tuple(line) for line in part.stack.affine().tolist())
    places = tuple(Place(each.path, each.member) for each in part.instances)
    target, tilted = str(_file_of(row, Path())), part.stack.tilt_deg > 0
    job = Job(ids["series_id"], places, target, shape, affine, tilted, numbered=not _counted(part.instances))
    return Entry(ids["series_id"], signature, None, "", len(files), row, json.dumps(asdict(job)))


def _counted(instances: Sequence[Instance]) -> bool:
    """Whether instance numbers go up, or down, from plane to plane: dcm2niix orders by them."""
    numbers = [each.number for each in instances if each.number is not None]
    steps = {(after > before) - (after < before) for before, after in itertools.pairwise(numbers)}
    return len(numbers) == len(instances) and steps in (set(), {1}, {-1})


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
        if row["reason"]:
            _remove(
                Path(_job(ledger.job(row["key"]), request.out).target).parent
            )  # what an earlier import made of other files
        ledger.settle(row["key"], row["reason"] or None, row["detail"])
        made += not row["reason"]
    return made


def _job(text: str, out: Path) -> Job:
    told = json.loads(text)
    told["target"] = str(out / told["target"])
    told["places"] = tuple(Place(*place) for place in told["places"])
    told["shape"] = tuple(told["shape"])
    return Job(**told)


def _write_key(request: ImportRequest, ledger: Ledger) -> None:
    """The key that leads from the archive's ids back to patients and folders; it stays in the private folder."""
    lines = ["pmbb_id,series_id,PatientID,SeriesInstanceUID,folder"]
    for patient, series, patient_id, uid, path in ledger.sources():
        told = [patient, series, patient_id, uid, str(Path(path).parent)]
        lines.append(",".join('"' + each.replace('"', '""') + '"' for each in told))
    file = key_file(request)
    write_atomic(file, ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
    file.chmod(0o600)
