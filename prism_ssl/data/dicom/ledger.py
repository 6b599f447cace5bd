"""Ledger of an import (SQLite): what it has read and decided, so that the next import reads only what is new.

Only the user can read it: it holds headers with names and ids. A killed import loses at most its last batch.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prism_ssl.data.dicom.catalog_rows import same_planes
from prism_ssl.data.dicom.files import Found, Headers
from prism_ssl.data.dicom.instance import Instance, safe
from prism_ssl.data.dicom.reasons import OF_GEOMETRY, TRANSIENT, LeftOut
from prism_ssl.errors import ConfigError, MachineTrouble

_TABLES = """
create table if not exists told (name text primary key, value text);
create table if not exists files (path text primary key, size integer, mtime_ns integer, left_out text);
create table if not exists instances (path text, series text, instance text);
create index if not exists by_series on instances (series);
create index if not exists by_path on instances (path);
create table if not exists series (series text primary key, judged integer);
create table if not exists volumes (
    volume text primary key, series text, signature text, reason text, detail text, files integer, row text, job text,
    part text, former text
);
create index if not exists volumes_by_series on volumes (series);
"""
"""``former``: signature, files and row of a volume in the archive that waits (with a ``job``) for its next conversion.
A volume whose ``series`` is its own id was adopted: its DICOM has not been read."""

_GONE = ""
"""Path of an instance whose file holds others now."""

IsThere = Callable[[dict[str, Any]], bool]
"""Whether the archive has the file of a row."""
Sound = Mapping[str, int]
"""Volumes that the files of a series (gone ones too) make without the bad ones, and the number of files of each."""


@dataclass(frozen=True)
class Entry:
    """The verdict on one part of a series: left out for ``reason``, or, with ``job``, to be converted.

    Attributes:
        volume: its pseudonymous id.
        part: name of the part, see ``Part``.
        signature: changes when the volume must be converted again; "" where nothing is to be converted.
        row: of the table; of one left out, only its ids and modality.
        job: what a task needs to convert it, as JSON.
    """

    volume: str
    part: str
    signature: str
    reason: str | None
    detail: str
    files: int
    row: dict[str, Any]
    job: str | None


class Ledger:
    """The ledger in ``file``, which is made where there is none.

    Args:
        file: 0600.
        settings: when they differ from those of the last import, every series is judged anew.
        archive: the archive's folder, which may have been moved.

    Raises:
        ConfigError: the ledger is of another archive, or damaged.
    """

    def __init__(self, file: Path, settings: str, archive: Path) -> None:
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(file)
        try:
            with self._db:
                _make_tables(self._db)
                self._refuse_other(archive, file)
                self._judge_anew_under(settings)
        except sqlite3.DatabaseError as error:
            self.close()
            raise ConfigError(
                f"the ledger {file} cannot be used ({error}); needed: a file system with locks, and a whole ledger; if "
                "it is damaged, move it away: all DICOM files that are still there are then read and converted again, "
                "with the same ids"
            ) from error
        except ConfigError:
            self.close()
            raise

    def _judge_anew_under(self, settings: str) -> None:
        before = self._db.execute("select value from told where name = 'settings'").fetchone()
        if before != (settings,):
            self._db.execute("update series set judged = 0")
            self._db.execute("insert or replace into told values ('settings', ?)", (settings,))

    def _refuse_other(self, archive: Path, file: Path) -> None:
        known = self._db.execute("select value from told where name = 'archive'").fetchone()
        if known is not None and known[0] != safe(str(archive)) and Path(known[0]).is_dir():
            raise ConfigError(
                f"{file} is the ledger of another archive, {known[0]}; needed for {archive}: another name, or another "
                "--private"
            )
        self._db.execute("insert or replace into told values ('archive', ?)", (safe(str(archive)),))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @property
    def begun(self) -> bool:
        """Whether any series has been judged, and ids been given."""
        return self._db.execute("select 1 from volumes limit 1").fetchone() is not None

    # ------------------------------------------------------------------ files
    def knows(self, found: Found) -> bool:
        """Whether a file was read before and has not changed since."""
        row = self._db.execute("select size, mtime_ns from files where path = ?", (safe(found.path),)).fetchone()
        return bool(row == (found.size, found.mtime_ns))

    def forget_unreadable(self) -> None:
        """Let files that could not be read be read again, and count them anew."""
        with self._db:
            self._db.execute("delete from files where left_out like ?", (f'%"{LeftOut.NOT_READABLE}"%',))

    def add(self, readings: Iterable[Headers]) -> None:
        """Keep what files held; their series are to be judged.

        An image that the file tells anew is known by its new header only. Others that the file held are gone, as if
        they were deleted; of a file that cannot be read, nothing is changed.
        """
        with self._db:
            for reading in readings:
                path = safe(reading.path)
                file = (path, reading.size, reading.mtime_ns, json.dumps(reading.left_out))
                self._db.execute("insert or replace into files values (?, ?, ?, ?)", file)
                if LeftOut.NOT_READABLE in reading.left_out:
                    continue
                self._forget(path, {sop for _, sop, _ in reading.instances})
                rows = [(path, series, told) for series, _, told in reading.instances]
                self._db.executemany("insert into instances values (?, ?, ?)", rows)
                self._unjudge({row[1] for row in rows})

    def _forget(self, path: str, told_anew: set[str]) -> None:
        known = self._db.execute("select rowid, series, instance from instances where path = ?", (path,)).fetchall()
        for row, series, told in known:
            if json.loads(told)["sop"] in told_anew:
                self._db.execute("delete from instances where rowid = ?", (row,))
                self._unjudge([series])
        self._db.execute("update instances set path = ? where path = ?", (_GONE, path))

    def _unjudge(self, series: Iterable[str]) -> None:
        self._db.executemany("insert or replace into series values (?, 0)", [(each,) for each in series])

    def files_left_out(self) -> Counter[str]:
        """How many files, or members of zip and tar files, hold no header, by reason."""
        counts = Counter[str]()
        for (told,) in self._db.execute("select left_out from files where left_out != '{}'"):
            counts.update(json.loads(told))
        return counts

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Everything that is kept in the block is one transaction."""
        with self._db:
            yield

    # ------------------------------------------------------------------ series
    def unjudged(self) -> list[str]:
        """Keys of the series to be judged: with new or changed files, or marked by other settings or ``reopen``."""
        return [row[0] for row in self._db.execute("select series from series where judged = 0 order by series")]

    def instances(self, series: str) -> list[Instance]:
        """The headers of one series; the path of one that is gone, because its file holds others now, is ""."""
        rows = self._db.execute("select path, instance from instances where series = ? order by rowid", (series,))
        known = [(path, Instance.from_json(told)) for path, told in rows]
        return [each if path != _GONE else replace(each, path="") for path, each in known]

    def judge(self, series: str, entries: Sequence[Entry], is_there: IsThere, sound: Sound | None) -> list[str]:
        """Keep the verdicts on a series; returns the ``series_path`` of volumes that it no longer has.

        A volume with an equal signature stays as it is, if ``is_there(row)`` finds its file. Belongs in a ``batch``.

        Args:
            sound: None where no DICOM file of the series is gone. Otherwise a volume in the archive stays, unless a
                verdict replaces it (``_replaces``), or a file that is still there speaks against it and ``sound``
                does not have it. Adopted volumes always stay so.
        """
        query = "select volume, signature, reason, detail, row, job, files from volumes where series = ?"
        before = {row[0]: row[1:] for row in self._db.execute(query, (series,))}
        staying = self._staying(series, entries, is_there, sound)
        for volume in staying:
            before.pop(volume, None)
        for entry in (each for each in entries if each.volume not in staying):
            reason, detail, job = entry.reason, entry.detail, entry.job
            known = before.pop(entry.volume, None) or self._adopted(entry.volume)
            if job is not None and known is not None and known[0] == entry.signature and known[4] is None:
                converted = known[1] is None and is_there(entry.row)
                if converted or (known[1] is not None and known[1] not in TRANSIENT):
                    reason, detail, job = known[1], known[2], None
            former = None
            if known is not None and known[1] is None:
                if reason is not None:
                    before[entry.volume] = known  # it was a volume, and is none any more
                elif known[4] is None:
                    former = json.dumps([known[0], known[5], known[3]])
            self._put(replace(entry, reason=reason, detail=detail, job=job), series, former if job else None)
        gone = [json.loads(row[3])["series_path"] for row in before.values() if row[1] is None]
        kept = {entry.volume for entry in entries}
        self._db.executemany("delete from volumes where volume = ?", [(each,) for each in before if each not in kept])
        self._db.execute("update series set judged = 1 where series = ?", (series,))
        return gone

    def _put(self, entry: Entry, series: str, former: str | None = None) -> None:
        outcome = (entry.signature, entry.reason, entry.detail, entry.files, json.dumps(entry.row), entry.job)
        self._db.execute(
            "insert or replace into volumes (volume, series, signature, reason, detail, files, row, job, part, former) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (entry.volume, series, *outcome, entry.part, former),
        )

    def _staying(self, series: str, entries: Sequence[Entry], is_there: IsThere, sound: Sound | None) -> set[str]:
        """Ids of the volumes that stay as they are, because files of them are gone, or may be (see ``adopt``)."""
        query = "select volume, row, part, files from volumes where reason is null and "
        known = self._db.execute(f"{query} series = ?", (series,)).fetchall() if sound is not None else []
        for entry in entries:
            known += self._db.execute(f"{query} volume = ? and series = volume", (entry.volume,))
        verdicts = {entry.volume: entry for entry in entries}
        bad = [entry.part for entry in entries if entry.reason is not None and entry.reason not in OF_GEOMETRY]
        against = tuple(f"{part} {kind} " for part in bad for kind in ("grid", "file"))
        return {
            volume
            for volume, told, part, files in known
            if ((sound or {}).get(volume) == files or not f"{part} ".startswith(against))
            and not (volume in verdicts and _replaces(verdicts[volume], json.loads(told)))
            and is_there(json.loads(told))
        }

    def _adopted(self, volume: str) -> Any:
        query = "select signature, reason, detail, row, job, files from volumes where volume = ? and series = volume"
        return self._db.execute(query, (volume,)).fetchone()

    def tell_anew(self, series: str, entries: Iterable[Entry]) -> None:
        """Update the rows of volumes in the archive from the headers of a series that lost files; mark it as judged.

        A volume with another number of files, or other planes, keeps its row: numbers may have moved. For a ``batch``.
        """
        for entry in (each for each in entries if each.job is not None):
            query = "select row from volumes where volume = ? and files = ? and reason is null and job is null"
            known = self._db.execute(query, (entry.volume, entry.files)).fetchone()
            if known is not None and same_planes(entry.row, json.loads(known[0])):
                told = (json.dumps(entry.row), entry.part, entry.volume)
                self._db.execute("update volumes set row = ?, part = ? where volume = ?", told)
        self._db.execute("update series set judged = 1 where series = ?", (series,))

    # ------------------------------------------------------------------ volumes
    def adopt(self, rows: Iterable[dict[str, Any]]) -> None:
        """Keep the rows of an archive whose ledger is lost; each volume is its own series until its DICOM is read."""
        with self._db:
            for row in rows:
                self._put(Entry(row["series_id"], "", "", None, "", row["slices"], row, None), row["series_id"])

    def reopen(self, is_there: IsThere) -> None:
        """Mark for a new judgement each series that lost a file of the archive, or has a volume that failed for a
        ``TRANSIENT`` reason or waits for a new conversion (its DICOM files may be gone)."""
        again = set[str]()
        for series, reason, row in self._db.execute("select series, reason, row from volumes where job is null"):
            if reason in TRANSIENT or (reason is None and not is_there(json.loads(row))):
                again.add(series)
        for volume, row in self._db.execute("select volume, row from volumes where former is not null").fetchall():
            if is_there(json.loads(row)):
                self.go_back(volume)
        with self._db:
            self._unjudge(again)

    def pending(self) -> list[str]:
        """Ids of the volumes to convert."""
        return [row[0] for row in self._db.execute("select volume from volumes where job is not null order by volume")]

    def job(self, volume: str) -> str:
        """What a task needs to convert a volume."""
        return str(self._db.execute("select job from volumes where volume = ?", (volume,)).fetchone()[0])

    def settle(self, volume: str, reason: str | None, detail: str) -> None:
        """Keep the outcome of a conversion; ``reason`` None: it is in the archive."""
        with self._db:
            query = "update volumes set reason = ?, detail = ?, job = null, former = null where volume = ?"
            self._db.execute(query, (reason, detail, volume))

    def go_back(self, volume: str) -> bool:
        """Let a volume that waits be as it is in the archive, and judge its series again with the next import; False of
        one that the archive did not have."""
        query = "select series, former from volumes where volume = ? and former is not null"
        found = self._db.execute(query, (volume,)).fetchone()
        if found is None:
            return False
        with self._db:
            query = "update volumes set signature = ?, files = ?, row = ?, job = null, former = null where volume = ?"
            self._db.execute(query, (*json.loads(found[1]), volume))
            self._unjudge([found[0]])
        return True

    def kept(self) -> list[dict[str, Any]]:
        """Rows of the volumes in the archive."""
        rows = self._db.execute("select row from volumes where reason is null and job is null order by volume")
        return [json.loads(row[0]) for row in rows]

    def left_out(self) -> list[dict[str, Any]]:
        """Rows of what was left out, with reason, detail and number of files."""
        query = "select row, reason, detail, files from volumes where reason is not null order by volume"
        return [
            json.loads(row) | {"reason": reason, "detail": detail, "files": files}
            for row, reason, detail, files in self._db.execute(query)
        ]

    def sources(self) -> Iterator[tuple[str, str, str, str, str]]:
        """(pmbb_id, series_id, patient, series id of DICOM, path of one file) of every part, kept or not."""
        query = """select volumes.row, instance from volumes join instances on instances.series = volumes.series
                   group by volume order by volume"""
        for row, instance in self._db.execute(query):
            told, first = json.loads(row), json.loads(instance)
            yield told["pmbb_id"], told["series_id"], first["patient"], first["series"], first["path"]


def _make_tables(db: sqlite3.Connection) -> None:
    db.executescript(_TABLES)
    known = {row[1] for row in db.execute("pragma table_info(volumes)")}
    for column in {"part", "former"} - known:  # a ledger of an earlier version
        db.execute(f"alter table volumes add column {column} text")


def has_begun(file: Path) -> bool:
    """Whether the ledger in ``file`` has judged any series; true of a damaged one too."""
    return file.exists() and ((peeked := _peeked(file, ())) is None or bool(peeked[0]))


def ledger_of_renamed(file: Path, volumes: Collection[str]) -> Path | None:
    """The ledger that an archive had under its earlier name: it has all ``volumes``, and its archive is gone.

    Args:
        file: where its ledger is to be; none has begun there.
        volumes: ids in its table.

    Raises:
        ConfigError: several ledgers in the folder may be it.
    """
    if not volumes:
        return None
    told = {each: _peeked(each, volumes) for each in sorted(file.parent.glob("*.sqlite")) if each != file}
    renamed = [each for each, peeked in told.items() if peeked and peeked[1] and not Path(peeked[0]).is_dir()]
    unclear = renamed if len(renamed) > 1 else [each for each, peeked in told.items() if peeked is None and not renamed]
    if unclear:
        raise ConfigError(
            f"it cannot be told whose ledger {' or '.join(each.name for each in unclear)} is; needed: that of the "
            f"archive {file.stem}, which has none by its name; move the others, and damaged ones, out of {file.parent}"
        )
    return renamed[0] if renamed else None


def _peeked(file: Path, volumes: Collection[str]) -> tuple[str, bool] | None:
    """The archive of a ledger ("" before it has judged any series), and whether it has all ``volumes``; None if it is
    damaged."""
    try:
        with closing(sqlite3.connect(file)) as db:
            _make_tables(db)
            known = dict(db.execute("select volume, reason is null from volumes"))
            archive = db.execute("select value from told where name = 'archive'").fetchone()
    except sqlite3.DatabaseError:
        return None
    return (archive[0] if archive and known else "", all(map(known.get, volumes)))


@contextmanager
def ledger_failures_named(folder: Path) -> Iterator[None]:
    """Raise ``MachineTrouble`` where the ledger in ``folder`` cannot be read or written."""
    try:
        yield
    except sqlite3.Error as error:
        raise MachineTrouble(
            f"the ledger in {folder} cannot be read or written ({error}); needed: space on its disk, and no other "
            "program that uses it; then the same command goes on"
        ) from error


def _replaces(entry: Entry, row: Mapping[str, Any]) -> bool:
    """Whether a verdict takes a volume of which files are gone: a bad file, or as many planes of its kind."""
    if entry.reason is not None:
        return entry.reason not in OF_GEOMETRY
    return same_planes(entry.row, row) and bool(entry.row["slices"] >= row["slices"])
