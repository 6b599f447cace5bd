"""Check the limits of the home directory and the temporary root, and delete leftovers when one is crossed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from rich.filesize import decimal

from prism_ssl.config.operations import QuotaConfig
from prism_ssl.train.guards.deletable_files import Leftover, Places, leftovers, remove
from prism_ssl.utils.disk_usage import DiskUsage, disk_usage, free_bytes

T = TypeVar("T")
Measure = Callable[..., DiskUsage]
"""``disk_usage``, or a test's replacement."""

_NAMED = 5  # leftovers that a note names


@dataclass(frozen=True)
class Reading:
    """One measurement; None where there is no limit."""

    home: DiskUsage | None
    tmp_free_bytes: int | None


def limits_crossed(config: QuotaConfig, reading: Reading, which: Literal["soft", "hard"]) -> dict[str, str]:
    """Names of the crossed limits, each with the measured and the allowed value.

    Without a soft limit the hard one is used. Free space has one limit for both.
    """
    crossed: dict[str, str] = {}
    if reading.home is not None:
        name, limit = _limit(config, which, "bytes")
        if limit is not None and reading.home.bytes > limit:
            found = decimal(reading.home.bytes)
            crossed[name] = f"the home directory holds {found}, {name} is {decimal(limit)}"
        name, limit = _limit(config, which, "inodes")
        if limit is not None and reading.home.inodes > limit:
            crossed[name] = f"the home directory holds {reading.home.inodes:,} files, {name} is {limit:,}"
    if reading.tmp_free_bytes is not None and reading.tmp_free_bytes < config.tmp_min_free_bytes:
        name, needed = "quota.tmp_min_free_bytes", decimal(config.tmp_min_free_bytes)
        crossed[name] = f"the temporary root has {decimal(reading.tmp_free_bytes)} free, {name} is {needed}"
    return crossed


def _limit(config: QuotaConfig, which: str, what: str) -> tuple[str, int | None]:
    soft = getattr(config, f"home_soft_{what}") if which == "soft" else None
    name = f"home_hard_{what}" if soft is None else f"home_soft_{what}"
    return f"quota.{name}", getattr(config, name)


@dataclass(frozen=True)
class Finding:
    """One check: the reading after pruning, what was removed and why, and the hard limits that are still crossed.

    ``unknown``: what could not be measured, in words; its limits were not checked.
    """

    reading: Reading
    reasons: Mapping[str, str]
    removed: tuple[tuple[Leftover, DiskUsage], ...]
    excess: Mapping[str, str]
    unknown: tuple[str, ...] = ()

    @property
    def removed_usage(self) -> DiskUsage:
        """Total size of all that was removed."""
        return sum((usage for _, usage in self.removed), DiskUsage())

    def note(self) -> str | None:
        """The message for the user; None when no limit was crossed."""
        if not self.reasons:
            return None
        why = "; ".join(self.reasons.values())
        if not self.removed:
            return f"{why}: there is nothing that this project may remove"
        kinds = Counter(leftover.kind for leftover, _ in self.removed)
        names = [leftover.path.name for leftover, _ in self.removed[:_NAMED]]
        names += ["..."] if len(self.removed) > _NAMED else []
        what = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        usage = self.removed_usage
        return (
            f"{why}: removed {decimal(usage.bytes)} in {usage.inodes:,} files of this project, "
            f"{what} ({', '.join(names)})"
        )


def find_crossed(
    config: QuotaConfig, places: Places, keep_going: Callable[[], bool], measure: Measure = disk_usage
) -> Finding:
    """Measure; when a soft limit is crossed, remove leftovers on that disk one by one until it no longer is.

    A disk that does not answer crosses no limit: ``Finding.unknown`` names it, and the other disk is still checked.
    """
    limits = (config.home_soft_bytes, config.home_hard_bytes, config.home_soft_inodes, config.home_hard_inodes)
    watched = any(limit is not None for limit in limits)
    unknown: list[str] = []
    home = _asked("the home directory", lambda: measure(places.home, keep_going), unknown) if watched else None
    free = None
    if config.tmp_min_free_bytes:
        free = _asked("the temporary root", lambda: free_bytes(places.tmp_root), unknown)
    reading = Reading(home, free)
    reasons = limits_crossed(config, reading, "soft")
    removed = []
    for leftover in _found(places, unknown) if reasons else ():
        if not keep_going() or not limits_crossed(config, reading, "soft"):
            break
        in_home = leftover.path.resolve().is_relative_to(places.home.resolve())
        if not _helps(config, reading, in_home, _same_disk(leftover, places)):
            continue
        usage = remove(leftover)
        if usage.inodes:
            removed.append((leftover, usage))
            reading = _without(reading, usage if in_home else DiskUsage(), places)
    return Finding(reading, reasons, tuple(removed), limits_crossed(config, reading, "hard"), tuple(unknown))


def _asked(what: str, ask: Callable[[], T], unknown: list[str]) -> T | None:
    try:
        return ask()
    except OSError as error:
        unknown.append(f"{what} could not be measured ({error.strerror or error})")
        return None


def _found(places: Places, unknown: list[str]) -> Iterator[Leftover]:
    try:
        yield from leftovers(places)
    except OSError as error:
        unknown.append(f"not all leftovers could be found ({error.strerror or error})")


def _helps(config: QuotaConfig, reading: Reading, in_home: bool, on_tmp: bool) -> bool:
    """Whether removing a file at that place helps with one of the crossed limits."""
    seen_from_there = Reading(reading.home if in_home else None, reading.tmp_free_bytes if on_tmp else None)
    return bool(limits_crossed(config, seen_from_there, "soft"))


def _same_disk(leftover: Leftover, places: Places) -> bool:
    try:
        return leftover.path.parent.stat().st_dev == places.tmp_root.stat().st_dev
    except OSError:  # one of them is gone: nothing to remove there
        return False


def _without(reading: Reading, gone_from_home: DiskUsage, places: Places) -> Reading:
    home = reading.home - gone_from_home if reading.home is not None else None
    free = reading.tmp_free_bytes
    if free is not None:
        with suppress(OSError):  # keep the last measurement
            free = free_bytes(places.tmp_root)
    return replace(reading, home=home, tmp_free_bytes=free)
