"""What an import has read and decided, so that the next one reads only what is new: an SQLite file of the user's own.

It holds headers with names and ids. Every change is a transaction: a killed import loses at most its last batch.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prism_ssl.data.dicom.files import Found, Reading
from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.reasons import TRANSIENT, LeftOut
from prism_ssl.errors import ConfigError, MachineTrouble

_TABLES = """
create table if not exists told (name text primary key, value text);
create table if not exists files (path text primary key, size integer, mtime_ns integer, left_out text);
create table if not exists instances (path text, series text, instance text);
create index if not exists by_series on instances (series);
create index if not exists by_path on instances (path);
create table if not exists series (series text primary key, judged integer);
create table if not exists volumes (
    volume text primary key, series text, signature text, reason text, detail text, files integer, row text, job text
);
create index if not exists volumes_by_series on volumes (series);
"""


_GONE = ""
"""Path of an instance whose file holds others now."""

IsThere = Callable[[dict[str, Any]], bool]
"""Whether the archive has the file of a row."""


@dataclass(frozen=True)
class Entry:
    """The verdict on one part of a series: left out for ``reason``, or, with ``job``, to be converted.

    Attributes:
        volume: its pseudonymous id.
        signature: changes when the volume must be converted again; "" where nothing is to be converted.
        row: of the table; of one left out, only its ids and modality.
        job: what a task needs to convert it, as JSON.
    """

    volume: str
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
                self._db.executescript(_TABLES)
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
        if known is not None and known[0] != _safe(str(archive)) and Path(known[0]).is_dir():
            raise ConfigError(
                f"{file} is the ledger of another archive, {known[0]}; needed for {archive}: another name, or another "
                "--private"
            )
        self._db.execute("insert or replace into told values ('archive', ?)", (_safe(str(archive)),))

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
        row = self._db.execute("select size, mtime_ns from files where path = ?", (_safe(found.path),)).fetchone()
        return bool(row == (found.size, found.mtime_ns))

    def forget_unreadable(self) -> None:
        """Let files that could not be read be read again, and count them anew."""
        with self._db:
            self._db.execute("delete from files where left_out like ?", (f'%"{LeftOut.NOT_READABLE}"%',))

    def add(self, readings: Iterable[Reading]) -> None:
        """Keep what files held; their series are to be judged.

        An image that the file tells anew is known by its new header only. Others that the file held are gone, as if
        they were deleted; of a file that cannot be read, nothing is changed.
        """
        with self._db:
            for reading in readings:
                path = _safe(reading.path)
                told = (path, reading.size, reading.mtime_ns, json.dumps(reading.left_out))
                self._db.execute("insert or replace into files values (?, ?, ?, ?)", told)
                if LeftOut.NOT_READABLE in reading.left_out:
                    continue
                self._forget(path, {each.sop for each in reading.instances})
                rows = [(path, series_key(each), each.to_json()) for each in reading.instances]
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
        """Keys of the series with a file that is new since they were judged."""
        return [row[0] for row in self._db.execute("select series from series where judged = 0 order by series")]

    def instances(self, series: str) -> list[Instance]:
        """The headers of one series; the path of one that is gone, because its file holds others now, is ""."""
        rows = self._db.execute("select path, instance from instances where series = ? order by rowid", (series,))
        known = [(path, Instance.from_json(told)) for path, told in rows]
        return [each if path != _GONE else replace(each, path="") for path, each in known]

    def judge(self, series: str, entries: Sequence[Entry], is_there: IsThere) -> list[str]:
        """Keep the verdicts on a series; returns the ``series_path`` of volumes that it no longer has.

        A volume with an equal signature stays as it is, if ``is_there(row)`` finds its file. Belongs in a ``batch``.
        """
        before = {
            row[0]: row[1:]
            for row in self._db.execute(
                "select volume, signature, reason, detail, row, job from volumes where series = ?", (series,)
            )
        }
        for entry in entries:
            reason, detail, job = entry.reason, entry.detail, entry.job
            known = before.pop(entry.volume, None)
            if job is not None and known is not None and known[0] == entry.signature and known[4] is None:
                converted = known[1] is None and is_there(entry.row)
                if converted or (known[1] is not None and known[1] not in TRANSIENT):
                    reason, detail, job = known[1], known[2], None
            outcome = (entry.signature, reason, detail, entry.files, json.dumps(entry.row), job)
            self._db.execute(
                "insert or replace into volumes values (?, ?, ?, ?, ?, ?, ?, ?)", (entry.volume, series, *outcome)
            )
            if reason is not None and known is not None and known[1] is None:
                before[entry.volume] = known  # it was a volume, and is none any more
        gone = [json.loads(row[3])["series_path"] for row in before.values() if row[1] is None]
        kept = {entry.volume for entry in entries}
        self._db.executemany("delete from volumes where volume = ?", [(each,) for each in before if each not in kept])
        self._db.execute("update series set judged = 1 where series = ?", (series,))
        return gone

    def tell_anew(self, series: str, entries: Iterable[Entry]) -> None:
        """Keep the rows of a series of which all files are gone; its volumes stay. Belongs in a ``batch``."""
        for entry in (each for each in entries if each.job is not None):
            told = (json.dumps(entry.row), entry.volume)
            self._db.execute("update volumes set row = ? where volume = ? and reason is null and job is null", told)
        self._db.execute("update series set judged = 1 where series = ?", (series,))

    # ------------------------------------------------------------------ volumes
    def reopen(self, is_there: IsThere) -> None:
        """Judge again the series of which a file of the archive is gone, or a volume failed for a passing reason."""
        again = set[str]()
        for series, reason, row in self._db.execute("select series, reason, row from volumes where job is null"):
            if reason in TRANSIENT or (reason is None and not is_there(json.loads(row))):
                again.add(series)
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
            self._db.execute(
                "update volumes set reason = ?, detail = ?, job = null where volume = ?", (reason, detail, volume)
            )

    def kept(self) -> list[dict[str, Any]]:
        """Rows of the volumes in the archive."""
        rows = self._db.execute("select row from volumes where reason is null and job is null order by volume")
        return [json.loads(row[0]) for row in rows]

    def left_out(self) -> list[dict[str, Any]]:
        """Rows of what was left out, with reason, detail and number of files."""
        rows = self._db.execute(
            "select row, reason, detail, files from volumes where reason is not null order by volume"
        )
        return [
            json.loads(row) | {"reason": reason, "detail": detail, "files": files}
            for row, reason, detail, files in rows
        ]

    def sources(self) -> Iterator[tuple[str, str, str, str, str]]:
        """(pmbb_id, series_id, patient, series id of DICOM, path of one file) of every part, kept or not."""
        query = """select volumes.row, instance from volumes join instances on instances.series = volumes.series
                   group by volume order by volume"""
        for row, instance in self._db.execute(query):
            told, first = json.loads(row), json.loads(instance)
            yield told["pmbb_id"], told["series_id"], first["patient"], first["series"], first["path"]


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


def series_key(instance: Instance) -> str:
    """What the files of one series share; without a series id, files of one folder are one series."""
    series = instance.series or f"folder {os.path.dirname(instance.path)} {os.path.dirname(instance.member)}"  # noqa: PTH120
    return _safe("\x1f".join((instance.patient, instance.study, series, instance.modality)))


def _safe(text: str) -> str:
    """The text with what SQLite cannot hold, bytes that are no UTF-8, written out."""
    return text.encode("utf-8", "backslashreplace").decode()
