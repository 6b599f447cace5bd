"""The warm pool as a state machine: which scan is served, which leaves, which is opened next.

It has no Ray, no thread and no clock. The actor around it asks ``draw`` for a visit, opens what ``to_open``
names, and reports back with ``landed`` or ``failed``. A slot moves through these states:

    empty    -> opening            its scan is being opened, nothing to serve yet
    opening  -> serving            the scan has landed
    serving  -> replacing          its visits are used up; it keeps serving while the next scan is opened
    replacing -> serving           the replacement has landed and taken over
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prism_ssl.contracts import VisitKey
from prism_ssl.data.pool.scan_order import Position, ScanOrder, position_by_index
from prism_ssl.errors import ReplacementFailed, TooManyBrokenScans

MIN_OPEN_SLOTS = 2
"""Slots that must be open before the first pair: fewer would make a batch of one series."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Settings of the pool; see ``DataConfig`` for the meaning."""

    slots: int
    visits_per_scan: int
    max_prefetch_replacements: int
    strict: bool
    deterministic: bool
    seed: int
    pairs_per_turn: int = 1


@dataclass(slots=True)
class Tenure:
    """One stay of a scan in a slot. ``visits`` of its ``budget`` pairs were drawn.

    ``counted``: its opening is in the counters; a resumed pool opens the scan again without counting it.
    """

    scan_id: str
    epoch: int
    budget: int
    visits: int = 0
    counted: bool = False


@dataclass(slots=True)
class Slot:
    """A place in the pool: the current scan, the pending one, and which of the two is open."""

    current: Tenure | None = None
    current_open: bool = False
    pending: Tenure | None = None
    pending_open: bool = False
    opening: bool = False
    owed: bool = False  # deterministic mode: a scan failed to open, and its replacement is not chosen yet

    def tenure_to_open(self) -> Tenure | None:
        """The tenure whose scan must be opened before this slot can go on."""
        if self.pending is not None:
            return None if self.pending_open else self.pending
        return None if self.current_open else self.current

    def take_over(self) -> None:
        """The pending scan becomes the current one."""
        self.current, self.current_open = self.pending, True
        self.pending, self.pending_open = None, False


@dataclass(frozen=True, slots=True)
class Load:
    """An order to the actor: open this scan for this slot."""

    slot: int
    scan_id: str


@dataclass(frozen=True, slots=True)
class Draw:
    """A pair to extract: from the scan open in ``slot``, with the generator of ``key``."""

    slot: int
    key: VisitKey


@dataclass(slots=True)
class PoolCounters:
    """Running totals of one pool; they continue after a resume."""

    opened: int = 0
    replacement_completed_count: int = 0
    replacement_failed_count: int = 0
    pairs: int = 0
    views_empty: int = 0
    views_saturated: int = 0
    views_flat: int = 0
    views_outside: int = 0

    def saw(self, kinds: Iterable[str]) -> None:
        """Count a view under each of these names."""
        for kind in kinds:
            setattr(self, kind, getattr(self, kind) + 1)


class WarmPool:
    """A fixed number of slots over a shard of scans.

    Args:
        scan_ids: the shard.
        settings: see ``PoolSettings``; there are never more slots than scans.
        cursor: what ``cursor()`` returned, to continue from there.
    """

    def __init__(self, scan_ids: Sequence[str], settings: PoolSettings, cursor: dict[str, Any] | None = None) -> None:
        self.settings = settings
        self.counters = PoolCounters(**cursor["counters"]) if cursor else PoolCounters()
        self.broken: set[str] = set(cursor["broken"]) & set(scan_ids) if cursor else set()
        position = _position(scan_ids, settings.seed, cursor) if cursor else None
        self._order = ScanOrder(scan_ids, settings.seed, position)
        self._turn: int = cursor["turn"] if cursor else 0
        self._drawn_in_turn: int = cursor["drawn_in_turn"] if cursor else 0
        self._first_to_open = 0
        self._started = False
        count = min(settings.slots, len(scan_ids))
        self.slots = _restored(cursor["slots"] if cursor else [], set(scan_ids), count)
        self._fill_empty_slots(staggered=cursor is None)

    # ------------------------------------------------------------------ questions
    def to_open(self) -> list[Load]:
        """Scans to start opening now; each is named once, at most ``max_prefetch_replacements`` at a time."""
        self._fill_empty_slots(staggered=False)
        room = self.settings.max_prefetch_replacements - sum(slot.opening for slot in self.slots)
        loads: list[Load] = []
        for step in range(len(self.slots)):
            number = (self._first_to_open + step) % len(self.slots)
            slot = self.slots[number]
            tenure = slot.tenure_to_open()
            if len(loads) < room and tenure is not None and not slot.opening:
                slot.opening = True
                loads.append(Load(number, tenure.scan_id))
        if loads:  # slots take turns here too, or with slow opens the first ones would leave no room for the others
            self._first_to_open = loads[-1].slot + 1
        return loads

    def draw(self) -> Draw | None:
        """The next pair, slots taking turns of ``pairs_per_turn``; None when it must wait for a scan to land.

        In that case ``to_open`` may name new scans.
        """
        number = self._deterministic_turn() if self.settings.deterministic else self._next_open_slot()
        if number is None:
            return None
        slot = self.slots[number]
        tenure = slot.current
        assert tenure is not None
        draw = Draw(number, VisitKey(tenure.scan_id, tenure.epoch, tenure.visits))
        tenure.visits += 1
        self.counters.pairs += 1
        self._pass_the_turn(number)
        if tenure.visits >= tenure.budget and slot.pending is None:
            self._expire(slot)
        return draw

    def cursor(self) -> dict[str, Any]:
        """Everything needed to continue after the last draw, as plain values."""
        return {
            "slots": [
                {
                    "current": asdict(slot.current) if slot.current else None,
                    "pending": asdict(slot.pending) if slot.pending else None,
                    "owed": slot.owed,
                }
                for slot in self.slots
            ],
            "order": {**asdict(self._order.position), "done": list(self._order.position.done)},
            "turn": self._turn,
            "drawn_in_turn": self._drawn_in_turn,
            "broken": sorted(self.broken),
            "counters": asdict(self.counters),
        }

    def open_scan_ids(self) -> set[str]:
        """The scans that are open in a slot, serving or about to."""
        held = [slot.current for slot in self.slots if slot.current_open]
        held += [slot.pending for slot in self.slots if slot.pending_open]
        return {tenure.scan_id for tenure in held if tenure}

    @property
    def scans_seen(self) -> int:
        """Distinct scans handed to a slot so far, broken ones excluded."""
        return self._order.handed_out - len(self.broken)

    @property
    def coverage(self) -> float:
        """Share of the shard seen so far."""
        return self.scans_seen / len(self._order)

    # ------------------------------------------------------------------ reports
    def landed(self, number: int) -> None:
        """The scan named by ``to_open`` for this slot is open."""
        slot = self.slots[number]
        tenure = slot.tenure_to_open()
        assert tenure is not None, "landed() answers a Load of to_open()"
        slot.opening = False
        new, tenure.counted = not tenure.counted, True
        self.counters.opened += new
        if slot.pending is None:
            slot.current_open = True
            return
        slot.pending_open = True
        if slot.current is not None:
            self.counters.replacement_completed_count += new
        if slot.current is None or not self.settings.deterministic:
            slot.take_over()

    def failed(self, number: int, stage: str, cause: str) -> None:
        """The scan that this slot was opening is broken.

        The choice of its replacement must not depend on when the failure became known: the deterministic mode makes it
        at the slot's turn.

        Raises:
            ReplacementFailed: in strict mode.
            TooManyBrokenScans: no scan is left to serve from.
        """
        slot = self.slots[number]
        tenure = slot.tenure_to_open()
        assert tenure is not None, "failed() answers a Load of to_open()"
        slot.opening = False
        self._drop(slot, tenure, stage, cause)
        if self.settings.deterministic:
            slot.owed = True
        else:
            self._choose_another(slot)

    def broke(self, number: int, stage: str, cause: str) -> None:
        """The scan that this slot serves turned out to be broken. Raises as ``failed``."""
        slot = self.slots[number]
        assert slot.current is not None
        tenure, slot.current, slot.current_open = slot.current, None, False
        if slot.pending is None:
            self._drop(slot, tenure, stage, cause)
            self._choose_another(slot)
            return
        if slot.pending_open:
            slot.take_over()
        self._count_broken(tenure, stage, cause)

    # ------------------------------------------------------------------ inside
    def _pass_the_turn(self, number: int) -> None:
        """Move on to the next slot after this one's pairs; a slot that stood in for another begins its own turn."""
        self._drawn_in_turn = self._drawn_in_turn + 1 if number == self._turn else 1
        over = self._drawn_in_turn >= self.settings.pairs_per_turn
        self._turn = (number + 1) % len(self.slots) if over else number
        self._drawn_in_turn = 0 if over else self._drawn_in_turn

    def _fill_empty_slots(self, staggered: bool) -> None:
        """Assign scans to empty slots; ``staggered`` budgets keep slots that open together from expiring together."""
        for number, slot in enumerate(self.slots):
            empty = slot.current is None and slot.pending is None and not slot.owed
            choice = self._order.next(self._unavailable()) if empty else None
            if choice is not None:
                share = (number + 1) / len(self.slots) if staggered else 1.0
                slot.current = Tenure(*choice, math.ceil(self.settings.visits_per_scan * share))

    def _deterministic_turn(self) -> int | None:
        for step in range(len(self.slots)):
            number = (self._turn + step) % len(self.slots)
            slot = self.slots[number]
            if slot.owed:
                slot.owed = False
                self._choose_another(slot)
            if slot.pending is not None and slot.pending_open:
                slot.take_over()
            if slot.pending is not None or (slot.current is not None and not slot.current_open):
                return None  # its scan is being opened, and the order of slots must not change
            if slot.current is not None:
                return number
        return None

    def _next_open_slot(self) -> int | None:
        is_open = [slot.current_open for slot in self.slots]
        usable = sum(slot.current is not None or slot.pending is not None for slot in self.slots)
        self._started = self._started or sum(is_open) >= min(MIN_OPEN_SLOTS, usable)
        turns = ((self._turn + step) % len(self.slots) for step in range(len(self.slots)))
        return next((number for number in turns if is_open[number]), None) if self._started else None

    def _expire(self, slot: Slot) -> None:
        """Visits used up: request another scan, or extend the budget if every other scan is in a slot already."""
        choice = self._order.next(self._unavailable())
        if choice is None:
            assert slot.current is not None
            slot.current.budget += self.settings.visits_per_scan
        else:
            slot.pending = Tenure(*choice, self.settings.visits_per_scan)

    def _unavailable(self) -> set[str]:
        tenures = [tenure for slot in self.slots for tenure in (slot.current, slot.pending) if tenure]
        return self.broken | {tenure.scan_id for tenure in tenures}

    def _drop(self, slot: Slot, tenure: Tenure, stage: str, cause: str) -> None:
        """Forget a tenure that never opened, or broke."""
        self._count_broken(tenure, stage, cause)
        if slot.pending is tenure:
            slot.pending = None
        else:
            slot.current = None
        if len(self.broken) == len(self._order):
            raise TooManyBrokenScans(
                f"all {len(self._order)} scans of the shard are broken, the last one {tenure.scan_id}: {cause}"
            )

    def _choose_another(self, slot: Slot) -> None:
        """Request another scan in place of a broken one; if none is left, the slot's current scan keeps serving."""
        choice = self._order.next(self._unavailable())
        if choice is not None:
            slot.pending = Tenure(*choice, self.settings.visits_per_scan)
        elif slot.current is not None:
            slot.current.budget += self.settings.visits_per_scan

    def _count_broken(self, tenure: Tenure, stage: str, cause: str) -> None:
        self.broken.add(tenure.scan_id)
        self.counters.replacement_failed_count += 1
        if self.settings.strict:
            raise ReplacementFailed(tenure.scan_id, stage, cause)


def _restored(saved: list[dict[str, Any]], shard: set[str], count: int) -> list[Slot]:
    """The slots of a cursor, ``count`` in all, without scans that have left the shard since (by quarantine, say).

    If the shard has become too small for all slots, empty ones are removed: no scan is in two slots, so enough are
    empty.
    """

    def tenure(values: dict[str, Any] | None) -> Tenure | None:
        return Tenure(**values) if values and values["scan_id"] in shard else None

    slots = [
        Slot(current=tenure(one["current"]), pending=tenure(one["pending"]), owed=one.get("owed", False))
        for one in saved
    ]
    empty = [slot for slot in slots if slot.current is None and slot.pending is None]
    for slot in empty[: max(0, len(slots) - count)]:
        slots.remove(slot)
    return slots + [Slot() for _ in range(count - len(slots))]


def _position(scan_ids: Sequence[str], seed: int, cursor: dict[str, Any]) -> Position:
    """Position at which the order of a cursor continues."""
    order = cursor["order"]
    if isinstance(order, dict):
        return Position(order["epoch"], order["after"], tuple(order["done"]))
    epoch, index = order
    tenures = [one[place] for one in cursor["slots"] for place in ("current", "pending") if one[place]]
    held = [(tenure["scan_id"], tenure["epoch"]) for tenure in tenures]
    return position_by_index(scan_ids, seed, epoch, index, held)


def check_broken_share(opened: float, failed: float, share: float, after: int) -> None:
    """Lenient mode's limit: raises ``TooManyBrokenScans`` when failed / attempts exceeds ``share``.

    Judged once ``after`` opens were attempted.
    """
    attempts = opened + failed
    if attempts >= after and failed > share * attempts:
        raise TooManyBrokenScans(
            f"{failed:.0f} of {attempts:.0f} scans could not be opened ({failed / attempts:.1%}, at most "
            f"{share:.1%} allowed by data.abort_broken_share); run preflight again, and look at the quarantine file"
        )
