"""Training workers take the same steps and end together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist

from prism_ssl.errors import (
    PeerLost,
    PrismError,
    QuotaExceeded,
    ReplacementFailed,
    RunInterrupted,
    TrainWorkerDied,
    TrainWorkerFailed,
)
from prism_ssl.train.distributed.ranks import Ranks
from prism_ssl.train.run.failure_cause import cause_of, is_about_others, is_death_by_machine, root_failure
from tests.support.gloo_ranks import ask_ranks


def raised_by(block: Callable[[], None], ranks: Ranks) -> list[Any]:
    """Class and text of what ``together`` makes of a block, and whether all workers know of it."""
    try:
        with ranks.together():
            block()
    except (PrismError, KeyError) as error:
        return [type(error).__name__, str(error), error is ranks.shared]
    return ["", "", ranks.shared is None]


def what_happens(ranks: Ranks) -> dict[str, Any]:
    first, last = ranks.is_first, ranks.rank == ranks.size - 1
    shares = [list(ranks.share_of(range(6))), ranks.compare([ranks.rank, 0.5]), ranks.exchange({"rank": ranks.rank})]

    def good() -> None:
        return

    def broken_scan() -> None:
        if last:
            raise ReplacementFailed("ct-7", "open", "OSError: gone")

    def unforeseen() -> None:
        if last:
            raise KeyError("never thought of")

    def stop_and_broken_scan() -> None:
        if first:
            raise RunInterrupted("asked to stop")
        broken_scan()

    def alone() -> None:
        with ranks.alone():
            if first:
                raise QuotaExceeded("the disk is full")

    alone()  # no error yet: the others would not hear of it
    held = raised_by(good, ranks)
    ranks = Ranks(ranks.rank, ranks.size, ranks._control)
    told = {block.__name__: raised_by(block, ranks) for block in (good, broken_scan, unforeseen, stop_and_broken_scan)}
    return told | {"held": held, "shares": shares, "loss": lost_peer(ranks)}


def lost_peer(ranks: Ranks) -> str:
    """What the first worker is told once the last one has gone without a word."""
    if not ranks.is_first:
        dist.destroy_process_group()
        return ""
    try:
        ranks.compare([0.0])
    except PeerLost as error:
        return str(error)
    return "nothing"


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return ask_ranks(2, what_happens, tmp_path_factory.mktemp("ranks"))


def test_a_block_that_ends_well_for_all_raises_nothing(of_two: Any) -> None:
    assert [each["good"] for each in of_two] == [["", "", True]] * 2


def test_what_one_worker_raised_all_raise_whole(of_two: Any) -> None:
    error = ReplacementFailed("ct-7", "open", "OSError: gone")
    assert [each["broken_scan"] for each in of_two] == [["ReplacementFailed", str(error), True]] * 2


def test_what_befell_one_worker_alone_waits_until_all_hear_of_it(of_two: Any) -> None:
    assert [each["held"] for each in of_two] == [["QuotaExceeded", "the disk is full", True]] * 2


def test_a_worker_without_others_raises_at_once() -> None:
    with pytest.raises(QuotaExceeded, match="the disk is full"), Ranks(0, 1).alone():
        raise QuotaExceeded("the disk is full")


def test_an_unforeseen_error_stays_what_it_is_where_it_was_raised_and_names_its_worker_elsewhere(of_two: Any) -> None:
    assert of_two[0]["unforeseen"] == ["TrainWorkerFailed", "training worker 1: KeyError: 'never thought of'", True]
    assert of_two[1]["unforeseen"] == ["KeyError", "'never thought of'", True]


def test_a_failure_counts_more_than_a_request_to_stop_at_the_same_step(of_two: Any) -> None:
    assert [each["stop_and_broken_scan"][0] for each in of_two] == ["ReplacementFailed"] * 2


def test_workers_share_in_order_and_hear_each_other(of_two: Any) -> None:
    assert [each["shares"][0] for each in of_two] == [[0, 1, 2], [3, 4, 5]]
    assert of_two[0]["shares"][1:] == of_two[1]["shares"][1:] == [[(0, 0.5), (1, 0.5)], [{"rank": 0}, {"rank": 1}]]


def test_a_worker_that_is_gone_is_an_error_and_not_a_wait(of_two: Any) -> None:
    assert of_two[0]["loss"].startswith("another training worker is gone, or did not answer within train.rank_timeout")


def test_a_worker_that_is_alone_waits_for_nobody() -> None:
    alone = Ranks.here(1.0)
    assert (alone.compare([2.0]), alone.exchange("word"), alone.share_of("abc")) == ([(2.0,)], ["word"], "abc")
    with pytest.raises(KeyError, match="mine") as error, alone.together():
        raise KeyError("mine")
    assert error.value is alone.shared


# ---------------------------------------------------------------------- whom the driver blames
class WorkerHealthCheckFailedError(RuntimeError):
    """As Ray calls a worker that died."""


LOST, DIED, BROKEN = PeerLost("gone"), WorkerHealthCheckFailedError("died"), ReplacementFailed("ct-7", "open", "gone")


@pytest.mark.parametrize(
    ("failures", "cause"),
    [
        ({0: LOST, 1: DIED}, "TrainWorkerDied: training worker 1 of 2 died without an error message"),
        ({1: BROKEN, 0: BROKEN}, "ReplacementFailed: scan ct-7"),
        ({0: LOST, 1: MemoryError("much")}, "TrainWorkerFailed: training worker 1: MemoryError: much"),
        ({0: LOST}, "PeerLost: gone"),
        ({}, "TrainWorkerDied: training worker 0 of 2 died without an error message"),
    ],
)
def test_the_worker_to_blame_is_one_that_did_not_fail_because_of_another(
    failures: dict[int, BaseException], cause: str
) -> None:
    assert cause_of(root_failure(failures, 2)).startswith(cause)


def test_a_single_worker_is_not_numbered() -> None:
    assert cause_of(root_failure({0: DIED}, 1)).startswith(
        "TrainWorkerDied: the training worker died without an error message"
    )
    assert cause_of(root_failure({0: KeyError("k")}, 1)) == "KeyError: 'k'"
    assert isinstance(root_failure({0: TrainWorkerFailed(0, "x")}, 2), TrainWorkerFailed)
    assert isinstance(root_failure({1: DIED}, 2), TrainWorkerDied)


def test_a_summary_that_only_speaks_of_another_worker_is_known() -> None:
    assert is_about_others(cause_of(LOST))
    assert not is_about_others(cause_of(BROKEN))
    assert not is_about_others(None)


def test_only_a_death_by_the_machine_is_tried_again() -> None:
    assert is_death_by_machine(root_failure({0: DIED}, 1))
    assert is_death_by_machine(root_failure({0: PeerLost("gone"), 1: DIED}, 2))
    deliberate = ReplacementFailed("ab12", "open", "OSError")
    ends = (deliberate, KeyError("k"), KeyboardInterrupt(), root_failure({0: PeerLost("gone"), 1: deliberate}, 2), None)
    assert not any(map(is_death_by_machine, ends))
