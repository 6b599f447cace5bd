from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prism_ssl.data.pool.scan_order import Position, ScanOrder, position_by_index
from prism_ssl.utils.seeds import generator_for
from tests.support.pool_fakes import unhurried

IDS = [f"scan-{number}" for number in range(7)]
NOTHING: frozenset[str] = frozenset()
SEEDS = st.integers(0, 2**31)


def take(order: ScanOrder, n: int) -> list[tuple[str, int]]:
    return [choice for _ in range(n) if (choice := order.next(NOTHING)) is not None]


def test_within_an_epoch_each_scan_comes_once_and_each_epoch_has_an_order_of_its_own() -> None:
    order = ScanOrder(IDS, seed=3)
    passes = [take(order, 7) for _ in range(3)]
    for epoch, taken in enumerate(passes):
        assert sorted(taken) == [(scan_id, epoch) for scan_id in IDS]
    assert len({tuple(scan_id for scan_id, _ in taken) for taken in passes}) == 3


def test_the_order_follows_from_the_seed_and_the_set_of_scans_alone() -> None:
    order = take(ScanOrder(IDS, seed=3), 14)
    assert take(ScanOrder(IDS[::-1], seed=3), 14) == order
    assert take(ScanOrder(IDS, seed=4), 14) != order


@unhurried
@given(SEEDS, st.integers(0, 40))
def test_restored_from_its_position_an_order_goes_on_with_the_same_scans(seed: int, drawn: int) -> None:
    order = ScanOrder(IDS, seed)
    take(order, drawn)
    restored = ScanOrder(IDS, seed, order.position)
    assert take(restored, 20) == take(order, 20)


@unhurried
@given(SEEDS, st.lists(st.sets(st.sampled_from(IDS)), max_size=30))
def test_unavailable_scans_are_passed_over_and_nothing_comes_twice_in_an_epoch(
    seed: int, unavailable: list[set[str]]
) -> None:
    order = ScanOrder(IDS, seed)
    taken = []
    for one in unavailable:
        choice = order.next(one)
        assert (choice is None) == (one == set(IDS))
        if choice is not None:
            assert choice[0] not in one
            taken.append(choice)
    assert len(set(taken)) == len(taken)


def test_asking_while_every_scan_is_unavailable_changes_nothing() -> None:
    order, undisturbed = ScanOrder(IDS, seed=0), ScanOrder(IDS, seed=0)
    take(order, 3)
    take(undisturbed, 3)
    assert order.next(set(IDS)) is None
    assert take(order, 10) == take(undisturbed, 10)


@unhurried
@given(
    SEEDS, st.integers(0, 20), st.sets(st.sampled_from(IDS), min_size=1), st.sets(st.sampled_from(["new-1", "new-2"]))
)
def test_scans_that_come_or_go_move_no_other_one(seed: int, drawn: int, left: set[str], new: set[str]) -> None:
    order = ScanOrder(IDS, seed)
    before = take(order, drawn)
    changed = ScanOrder(sorted(left | new), seed, order.position)
    after = take(changed, 3 * len(left | new))
    assert len(set(before + after)) == len(before) + len(after)
    unbroken = take(ScanOrder(IDS, seed), 50)[drawn:]
    staying = [choice for choice in after if choice[0] in left]
    assert staying == [choice for choice in unbroken if choice[0] in left][: len(staying)]
    assert {scan_id for scan_id, epoch in after if epoch == order.position.epoch + 1} == left | new


@unhurried
@given(SEEDS, st.integers(0, 3), st.integers(0, 7))
def test_a_position_by_index_goes_on_with_the_rest_of_its_pass(seed: int, epoch: int, index: int) -> None:
    old_pass = [IDS[i] for i in generator_for(seed, "scan-order", epoch).permutation(len(IDS))]
    held = [(scan_id, epoch) for scan_id in old_pass[max(0, index - 2) : index]]
    order = ScanOrder(IDS, seed, position_by_index(IDS, seed, epoch, index, held))
    rest = take(order, 7 - index)
    assert sorted(rest) == sorted((scan_id, epoch) for scan_id in old_pass[index:])
    assert sorted(take(order, 7)) == [(scan_id, epoch + 1) for scan_id in IDS]


def test_a_position_by_index_in_another_shard_begins_the_next_pass() -> None:
    assert position_by_index(IDS, 3, 1, 4, [("scan-that-left", 0)]) == Position(2)
    last = IDS[generator_for(3, "scan-order", 1).permutation(len(IDS))[-1]]
    assert position_by_index(IDS, 3, 1, 4, [(last, 1)]) == Position(2)


def test_scans_count_as_handed_out_until_the_first_pass_has_ended() -> None:
    order = ScanOrder(IDS, seed=0)
    assert [order.handed_out for _ in range(10) if take(order, 1)] == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
