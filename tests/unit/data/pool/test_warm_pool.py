from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prism_ssl.contracts import VisitKey
from prism_ssl.data.pool.warm_pool import Load, PoolSettings, WarmPool, check_broken_share
from prism_ssl.errors import ReplacementFailed, TooManyBrokenScans
from tests.support.pool_fakes import pool_settings, unhurried

SEEDS = st.integers(0, 2**31)


def ids(n: int) -> list[str]:
    return [f"scan-{number:02d}" for number in range(n)]


def saved(pool: WarmPool) -> dict[str, Any]:
    """The cursor as a checkpoint keeps it: plain values only."""
    cursor: dict[str, Any] = json.loads(json.dumps(pool.cursor()))
    return cursor


def land_all(pool: WarmPool) -> None:
    while loads := pool.to_open():
        for load in loads:
            pool.landed(load.slot)


def draw_key(pool: WarmPool) -> VisitKey:
    """The next visit of a pool whose scans open at once; a draw that finds nothing may have chosen another scan."""
    for _ in range(len(pool.slots) + 1):
        land_all(pool)
        if draw := pool.draw():
            return draw.key
    raise AssertionError("the pool has nothing to serve")


def keys(pool: WarmPool, n: int) -> list[VisitKey]:
    return [draw_key(pool) for _ in range(n)]


@given(seed=SEEDS, stops=st.sets(st.integers(1, 79)), deterministic=st.booleans())
@settings(deadline=None, max_examples=30)
def test_totals_of_a_pool_that_is_resumed_again_and_again_are_those_of_an_unbroken_one(
    seed: int, stops: set[int], deterministic: bool
) -> None:
    whole = WarmPool(ids(9), pool_settings(slots=4, visits_per_scan=5, seed=seed, deterministic=deterministic))
    pool = WarmPool(ids(9), whole.settings)
    for number in range(80):
        if number in stops:
            pool = WarmPool(ids(9), whole.settings, saved(pool))
        draw_key(whole), draw_key(pool)
    land_all(whole)
    land_all(pool)
    assert pool.counters == whole.counters


@pytest.mark.parametrize("visits", [7, 100])
def test_a_scan_gives_its_pairs_of_a_turn_in_a_row_also_across_a_resume(visits: int) -> None:
    pool = WarmPool(ids(6), pool_settings(slots=3, visits_per_scan=visits, pairs_per_turn=2))
    drawn = keys(pool, 31)
    drawn += keys(WarmPool(ids(6), pool.settings, saved(pool)), 29)
    turns = [drawn[at : at + 2] for at in range(0, 60, 2)]
    same = [first.scan_id == second.scan_id for first, second in turns]
    assert same.count(False) <= 60 // visits + 1  # a replacement lands between two draws
    assert all(before[1].scan_id != after[0].scan_id for before, after in pairwise(turns))


def keys_with_delays(pool: WarmPool, n: int, rng: random.Random) -> list[VisitKey]:
    """The next visits of a pool whose scans open late and in any order."""
    opening: list[Load] = []
    drawn: list[VisitKey] = []
    while len(drawn) < n:
        opening += pool.to_open()
        draw = pool.draw() if rng.random() < 0.7 else None
        if draw is not None:
            drawn.append(draw.key)
        elif opening:
            pool.landed(opening.pop(rng.randrange(len(opening))).slot)
    return drawn


# ---------------------------------------------------------------------- serving
def test_the_first_pair_waits_for_two_open_slots() -> None:
    pool = WarmPool(ids(8), pool_settings(slots=4, max_prefetch_replacements=4, deterministic=False))
    loads = pool.to_open()
    assert [load.slot for load in loads] == [0, 1, 2, 3]
    assert pool.draw() is None
    pool.landed(3)
    assert pool.draw() is None
    pool.landed(1)
    served = [draw for _ in range(4) if (draw := pool.draw())]
    assert [draw.slot for draw in served] == [1, 3, 1, 3]
    assert {draw.key.scan_id for draw in served} == {loads[1].scan_id, loads[3].scan_id}


def test_a_slot_serves_its_scan_until_the_replacement_has_landed() -> None:
    pool = WarmPool(ids(8), pool_settings(slots=2, visits_per_scan=4, deterministic=False))
    land_all(pool)
    old = pool.draw()
    assert old is not None
    while not (loads := pool.to_open()):
        assert pool.draw() is not None
    expired = loads[0].slot
    meanwhile = [draw for _ in range(20) if (draw := pool.draw())]
    of_slot = [draw.key for draw in meanwhile if draw.slot == expired]
    assert len(of_slot) == 10
    assert {key.scan_id for key in of_slot} == {of_slot[0].scan_id} != {loads[0].scan_id}
    pool.landed(expired)
    after = [draw.key for _ in range(2) if (draw := pool.draw()) and draw.slot == expired]
    assert after == [VisitKey(loads[0].scan_id, 0, 0)]


@pytest.mark.parametrize("deterministic", [True, False])
def test_slots_opened_together_expire_one_by_one(deterministic: bool) -> None:
    pool = WarmPool(ids(40), pool_settings(slots=4, visits_per_scan=40, deterministic=deterministic))
    pairs_at_expiry: list[int] = []
    while len(pairs_at_expiry) < 12:
        before = pool.counters.replacement_completed_count
        draw_key(pool)
        land_all(pool)
        if pool.counters.replacement_completed_count > before:
            pairs_at_expiry.append(pool.counters.pairs)
    gaps = [later - earlier for earlier, later in pairwise(pairs_at_expiry)]
    assert min(gaps) >= 37  # 4 slots of 40 visits: one expiry in 40 pairs; a slot's turn moves it by 3 at most


@pytest.mark.parametrize("deterministic", [True, False])
def test_there_are_no_more_slots_than_scans_and_a_full_pool_draws_new_pairs_from_them(deterministic: bool) -> None:
    pool = WarmPool(ids(3), pool_settings(slots=16, visits_per_scan=2, deterministic=deterministic))
    assert len(pool.slots) == 3
    drawn = keys(pool, 30)
    assert Counter(key.scan_id for key in drawn) == dict.fromkeys(ids(3), 10)
    assert len(set(drawn)) == 30
    assert pool.counters.opened == 3


def test_one_scan_more_than_slots_is_enough_to_show_all_of_them() -> None:
    pool = WarmPool(ids(4), pool_settings(slots=3, visits_per_scan=5))
    assert {key.scan_id for key in keys(pool, 60)} == set(ids(4))
    assert pool.coverage == 1.0


def test_every_slot_is_renewed_however_slowly_scans_open() -> None:
    pool = WarmPool(
        ids(100), pool_settings(slots=6, visits_per_scan=1, max_prefetch_replacements=1, deterministic=False)
    )
    renewed = Counter[int]()
    land_all(pool)
    for _ in range(60):  # a scan takes as long to open as 12 pairs to draw: all six slots wait at all times
        for _ in range(12):
            pool.draw()
        for load in pool.to_open():
            renewed[load.slot] += 1
            pool.landed(load.slot)
    assert renewed == dict.fromkeys(range(6), 10)


# ---------------------------------------------------------------------- the walk
class PoolWalk(RuleBasedStateMachine):
    """Any sequence of draws, landings, failures and resumes."""

    deterministic = False

    @initialize(
        scans=st.integers(1, 9),
        slots=st.integers(2, 5),
        visits=st.integers(1, 5),
        prefetch=st.integers(1, 3),
        seed=SEEDS,
    )
    def begin(self, scans: int, slots: int, visits: int, prefetch: int, seed: int) -> None:
        self.settings = PoolSettings(slots, visits, prefetch, False, self.deterministic, seed)
        self.shard = ids(scans)
        self.pool = WarmPool(self.shard, self.settings)
        self.opening: list[Load] = []
        self.opened: dict[int, str] = {}
        self.drawn: list[VisitKey] = []
        self.landed: set[tuple[str, int]] = set()  # tenures: one that a resumed pool opens again is opened once
        self.failures = 0
        self.exhausted = False

    @precondition(lambda self: not self.exhausted)
    @rule()
    def open(self) -> None:
        self.opening += self.pool.to_open()
        if not all(slot.current or slot.pending or slot.owed for slot in self.pool.slots):
            assert self.held() | self.pool.broken == set(self.shard), "a slot is empty while a scan is free"

    @precondition(lambda self: self.exhausted)
    @rule()
    def stay_ended(self) -> None:
        """Every scan is broken: nothing is left to do."""

    @precondition(lambda self: self.opening)
    @rule(choice=st.integers(0, 100))
    def land(self, choice: int) -> None:
        load = self.opening.pop(choice % len(self.opening))
        tenure = self.pool.slots[load.slot].tenure_to_open()
        assert tenure is not None
        self.landed.add((tenure.scan_id, tenure.epoch))
        self.pool.landed(load.slot)

    @precondition(lambda self: self.opening)
    @rule(choice=st.integers(0, 100))
    def fail(self, choice: int) -> None:
        load = self.opening.pop(choice % len(self.opening))
        self.break_scan(lambda: self.pool.failed(load.slot, "open", "EOFError: cut"), load.scan_id)

    @precondition(lambda self: not self.exhausted)
    @rule(times=st.integers(1, 8))
    def draw(self, times: int) -> None:
        for _ in range(times):
            held = self.pool.open_scan_ids()
            draw = self.pool.draw()
            if draw is not None:
                assert draw.key.scan_id in held, "a scan was served that had not landed"
                self.drawn.append(draw.key)

    @precondition(lambda self: not self.exhausted)
    @rule()
    def draw_a_broken_scan(self) -> None:
        draw = self.pool.draw()
        if draw is not None:
            self.drawn.append(draw.key)
            self.break_scan(lambda: self.pool.broke(draw.slot, "extract", "ValueError: odd"), draw.key.scan_id)

    @precondition(lambda self: not self.exhausted)
    @rule()
    def resume(self) -> None:
        self.pool = WarmPool(self.shard, self.settings, saved(self.pool))
        self.opening = []

    def break_scan(self, report: Callable[[], None], scan_id: str) -> None:
        self.failures += 1
        if self.pool.broken | {scan_id} == set(self.shard):
            with pytest.raises(TooManyBrokenScans, match=f"all {len(self.shard)} scans .* the last one {scan_id}"):
                report()
            self.exhausted = True
            self.opening = []
        else:
            report()
        assert scan_id in self.pool.broken

    def held(self) -> set[str]:
        return {tenure.scan_id for slot in self.pool.slots for tenure in (slot.current, slot.pending) if tenure}

    @invariant()
    def no_scan_is_in_two_places_and_no_broken_one_in_any(self) -> None:
        tenures = [tenure for slot in self.pool.slots for tenure in (slot.current, slot.pending) if tenure]
        assert len(self.held()) == len(tenures)
        assert not self.pool.broken & {*self.held(), *(load.scan_id for load in self.opening)}

    @invariant()
    def scans_being_opened_are_bounded_and_known(self) -> None:
        assert len(self.opening) <= self.settings.max_prefetch_replacements
        assert {load.slot for load in self.opening} == {n for n, slot in enumerate(self.pool.slots) if slot.opening}

    @invariant()
    def memory_is_bounded(self) -> None:
        spare = self.settings.slots if self.deterministic else self.settings.max_prefetch_replacements
        assert len(self.pool.open_scan_ids()) + len(self.opening) <= self.settings.slots + spare

    @invariant()
    def visits_never_repeat(self) -> None:
        assert len(set(self.drawn)) == len(self.drawn)

    @invariant()
    def counters_tell_what_happened(self) -> None:
        counters = self.pool.counters
        assert (counters.opened, counters.replacement_failed_count) == (len(self.landed), self.failures)
        assert counters.pairs == len(self.drawn)
        assert counters.replacement_completed_count <= counters.opened
        assert {key.scan_id for key in self.drawn} <= set(self.shard)
        assert 0 <= self.pool.coverage <= 1

    def teardown(self) -> None:
        """Whatever happened: once its scans open again, the pool serves."""
        if hasattr(self, "pool") and not self.exhausted:
            for load in self.opening:
                self.pool.landed(load.slot)
            assert len(set(self.drawn + keys(self.pool, 20))) == len(self.drawn) + 20


class DeterministicPoolWalk(PoolWalk):
    deterministic = True


_walk = settings(unhurried, max_examples=150, stateful_step_count=30)
TestPoolWalk = PoolWalk.TestCase
TestPoolWalk.settings = _walk
TestDeterministicPoolWalk = DeterministicPoolWalk.TestCase
TestDeterministicPoolWalk.settings = _walk


# ---------------------------------------------------------------------- determinism and resume
@unhurried
@given(
    scans=st.integers(1, 12),
    slots=st.integers(2, 5),
    visits=st.integers(1, 7),
    prefetch=st.integers(1, 3),
    seed=SEEDS,
    delays=SEEDS,
)
def test_the_order_in_which_scans_land_does_not_change_a_deterministic_sequence(
    scans: int, slots: int, visits: int, prefetch: int, seed: int, delays: int
) -> None:
    given_settings = PoolSettings(slots, visits, prefetch, True, True, seed)
    at_once = keys(WarmPool(ids(scans), given_settings), 120)
    assert keys_with_delays(WarmPool(ids(scans), given_settings), 120, random.Random(delays)) == at_once


@unhurried
@given(
    scans=st.integers(3, 12),
    visits=st.integers(1, 4),
    bad=st.sets(st.integers(0, 11), max_size=4),
    seed=SEEDS,
    delays=SEEDS,
)
def test_nor_does_the_moment_at_which_broken_scans_are_found(
    scans: int, visits: int, bad: set[int], seed: int, delays: int
) -> None:
    given_settings = PoolSettings(3, visits, 3, False, True, seed)
    broken = {scan_id for number, scan_id in enumerate(ids(scans)) if number in bad and number < scans - 1}

    def sequence(rng: random.Random | None) -> list[VisitKey]:
        pool, under_way, drawn = WarmPool(ids(scans), given_settings), list[Load](), list[VisitKey]()
        while len(drawn) < 60:
            under_way += pool.to_open()
            for load in [load for load in under_way if rng is None or rng.random() < 0.5]:
                under_way.remove(load)
                if load.scan_id in broken:
                    pool.failed(load.slot, "open", "EOFError: cut")
                else:
                    pool.landed(load.slot)
            draw = pool.draw()
            drawn += [draw.key] if draw else []
        return drawn

    assert sequence(random.Random(delays)) == sequence(None)


def test_seed_and_shard_fix_the_sequence() -> None:
    def sequence(shard: list[str], seed: int) -> list[VisitKey]:
        return keys(WarmPool(shard, pool_settings(slots=3, seed=seed)), 100)

    assert sequence(ids(9), 1) == sequence(ids(9)[::-1], 1)
    assert sequence(ids(9), 1) != sequence(ids(9), 2)


def test_draw_10001_after_a_resume_equals_draw_10001_without() -> None:
    pool_of_16 = pool_settings(slots=16, visits_per_scan=100)
    pool = WarmPool(ids(600), pool_of_16)
    keys(pool, 10_000)
    restored = WarmPool(ids(600), pool_of_16, saved(pool))
    assert keys(restored, 3000) == keys(pool, 3000)
    assert restored.counters.pairs == pool.counters.pairs == 13_000


@unhurried
@given(scans=st.integers(2, 9), visits=st.integers(1, 5), seed=SEEDS, delays=SEEDS, at=st.integers(0, 60))
def test_a_resume_at_any_draw_and_with_scans_on_the_way_changes_nothing(
    scans: int, visits: int, seed: int, delays: int, at: int
) -> None:
    given_settings = pool_settings(slots=3, visits_per_scan=visits, seed=seed)
    uninterrupted = keys(WarmPool(ids(scans), given_settings), 100)
    pool = WarmPool(ids(scans), given_settings)
    keys_with_delays(pool, at, rng := random.Random(delays))
    restored = WarmPool(ids(scans), given_settings, saved(pool))
    assert keys_with_delays(restored, 100 - at, rng) == uninterrupted[at:]


@unhurried
@given(
    left=st.sets(st.sampled_from(ids(10)), min_size=2),
    drawn=st.integers(0, 80),
    seed=SEEDS,
    deterministic=st.booleans(),
)
def test_a_resume_onto_a_shard_that_lost_scans_keeps_the_others_and_fills_the_slots_anew(
    left: set[str], drawn: int, seed: int, deterministic: bool
) -> None:
    given_settings = pool_settings(slots=4, visits_per_scan=3, seed=seed, deterministic=deterministic)
    pool = WarmPool(ids(10), given_settings)
    keys_with_delays(pool, drawn, random.Random(seed))
    before = {slot.current.scan_id: slot.current.visits for slot in pool.slots[: len(left)] if slot.current}
    restored = WarmPool(sorted(left), given_settings, saved(pool))
    assert len(restored.slots) == min(4, len(left))
    after = {slot.current.scan_id: slot.current.visits for slot in restored.slots if slot.current}
    assert after.items() >= {scan_id: visits for scan_id, visits in before.items() if scan_id in left}.items()
    assert {key.scan_id for key in keys(restored, 200)} == left
    assert all(slot.current for slot in restored.slots)


@unhurried
@given(
    gone=st.sets(st.sampled_from(ids(10)), max_size=8),
    came=st.sets(st.sampled_from(["scan-20", "scan-21", "scan-22"])),
    slots=st.integers(2, 6),
    visits=st.integers(1, 4),
    drawn=st.integers(0, 60),
    seed=SEEDS,
    deterministic=st.booleans(),
)
def test_no_draw_repeats_and_none_is_missed_but_for_scans_that_came_or_went(
    gone: set[str], came: set[str], slots: int, visits: int, drawn: int, seed: int, deterministic: bool
) -> None:
    given_settings = pool_settings(slots, visits, seed=seed, deterministic=deterministic)
    pool = WarmPool(ids(10), given_settings)
    budgets = {slot.current.scan_id: slot.current.budget for slot in pool.slots if slot.current}
    before = keys_with_delays(pool, drawn, random.Random(seed))
    shard = sorted({*ids(10), *came} - gone)
    resumed = WarmPool(shard, given_settings, saved(pool))
    assert len(resumed.slots) == min(slots, len(shard))
    after = keys_with_delays(resumed, 400, random.Random(seed))
    assert len(set(before + after)) == drawn + 400
    visited = {(key.scan_id, key.visit) for key in before + after if key.epoch == 0}
    for scan_id in set(ids(10)) - gone:
        assert {(scan_id, visit) for visit in range(budgets.get(scan_id, visits))} <= visited
    assert {key.scan_id for key in after} == set(shard)


OLD_DRAWS = "3.0 0.0 3.1 0.1 6.0 0.2 6.1 7.0 6.2 7.1 4.0"
"""Scan and visit of the draws before OLD_CURSOR was saved, all of the first pass."""
OLD_CURSOR: dict[str, Any] = {
    "slots": [
        {"current": {"scan_id": "scan-04", "epoch": 0, "budget": 3, "visits": 1}, "pending": None, "owed": False},
        {"current": {"scan_id": "scan-07", "epoch": 0, "budget": 3, "visits": 2}, "pending": None, "owed": False},
    ],
    "order": [0, 5], "turn": 1, "drawn_in_turn": 0, "broken": [],
    "counters": {"opened": 5, "replacement_completed_count": 3, "replacement_failed_count": 0, "pairs": 11},
}  # fmt: skip
"""Of a version that counted the scans of a pass by index."""


@pytest.mark.parametrize("gone", [set(), {"scan-07"}])
def test_a_cursor_of_an_earlier_version_is_continued(gone: set[str]) -> None:
    before = [VisitKey(f"scan-0{one[0]}", 0, int(one[2])) for one in OLD_DRAWS.split()]
    resumed = WarmPool(sorted({*ids(8)} - gone), pool_settings(slots=2, visits_per_scan=3, seed=5), OLD_CURSOR)
    after = keys(resumed, 60)
    assert len(set(before + after)) == 71
    if not gone:  # then the pass is the one that the index was counted in
        pairs_of = Counter(key.scan_id for key in before + after if key.epoch == 0)
        assert pairs_of == {scan_id: 2 if scan_id == "scan-03" else 3 for scan_id in ids(8)}


def test_a_resume_forgets_broken_scans_that_have_left_the_shard() -> None:
    lenient = pool_settings(slots=2, strict=False)
    pool = WarmPool(ids(4), lenient)
    broken = pool.to_open()[0]
    pool.failed(broken.slot, "open", "EOFError: cut")
    rest = [scan_id for scan_id in ids(4) if scan_id != broken.scan_id]
    restored = WarmPool(rest, lenient, saved(pool))
    keys(restored, 30)
    assert (restored.scans_seen, restored.coverage) == (3, 1.0)


# ---------------------------------------------------------------------- failures
@pytest.mark.parametrize("stage", ["open", "extract"])
def test_strict_the_first_failure_names_scan_stage_and_cause(stage: str) -> None:
    pool = WarmPool(ids(5), pool_settings(slots=2))
    load = pool.to_open()[0]
    if stage == "open":
        report = pool.failed
    else:
        pool.landed(load.slot)
        report = pool.broke
    with pytest.raises(ReplacementFailed, match=f"scan {load.scan_id} failed at stage '{stage}': EOFError") as found:
        report(load.slot, stage, "EOFError: cut")
    assert (found.value.scan_id, found.value.stage, found.value.cause) == (load.scan_id, stage, "EOFError: cut")


@pytest.mark.parametrize("deterministic", [True, False])
def test_lenient_a_broken_scan_is_counted_replaced_and_never_asked_for_again(deterministic: bool) -> None:
    pool = WarmPool(ids(7), pool_settings(slots=2, visits_per_scan=1, strict=False, deterministic=deterministic))
    bad, asked, served = {ids(7)[3], ids(7)[5]}, Counter[str](), set()
    for _ in range(300):
        for load in pool.to_open():
            asked[load.scan_id] += 1
            if load.scan_id in bad:
                pool.failed(load.slot, "open", "EOFError: cut")
            else:
                pool.landed(load.slot)
        if draw := pool.draw():
            served.add(draw.key.scan_id)
    assert served == set(ids(7)) - bad
    assert (asked[ids(7)[3]], asked[ids(7)[5]]) == (1, 1)
    assert pool.broken == bad
    assert pool.counters.replacement_failed_count == 2
    assert (pool.scans_seen, pool.coverage) == (5, 5 / 7)


def test_lenient_a_slot_whose_replacement_is_broken_serves_on() -> None:
    pool = WarmPool(ids(3), pool_settings(slots=2, visits_per_scan=2, strict=False))
    land_all(pool)
    while not (loads := pool.to_open()):
        assert pool.draw() is not None
    pool.failed(loads[0].slot, "open", "EOFError: cut")
    assert {key.scan_id for key in keys(pool, 20)} == set(ids(3)) - {loads[0].scan_id}


def test_lenient_ends_when_every_scan_is_broken() -> None:
    pool = WarmPool(ids(3), pool_settings(slots=2, strict=False))
    first, second = pool.to_open()
    pool.failed(first.slot, "open", "EOFError: cut")
    pool.failed(second.slot, "open", "EOFError: cut")
    assert pool.draw() is None  # at whose turn another scan is chosen
    (last,) = pool.to_open()
    with pytest.raises(TooManyBrokenScans, match=f"all 3 scans of the shard are broken, the last one {last.scan_id}"):
        pool.failed(last.slot, "open", "EOFError: cut")


def test_the_broken_share_is_judged_once_enough_scans_were_tried() -> None:
    check_broken_share(opened=0, failed=199, share=0.1, after=200)
    check_broken_share(opened=180, failed=20, share=0.1, after=200)
    with pytest.raises(TooManyBrokenScans, match=r"21 of 200 scans could not be opened \(10.5%, at most 10.0% allowed"):
        check_broken_share(opened=179, failed=21, share=0.1, after=200)
