import hashlib
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prism_ssl.utils.hashing import content_hash, shard_worker, short_id, stable_int


def guide_shard_worker(scan_id: str, n_workers: int) -> int:
    """The guide's own function (section 6.3), letter for letter."""
    k = int(hashlib.sha256(scan_id.encode()).hexdigest(), 16)
    return k % n_workers


@given(st.text(), st.integers(1, 64))
def test_a_scan_belongs_to_the_worker_the_guide_says(scan_id: str, n_workers: int) -> None:
    assert shard_worker(scan_id, n_workers) == guide_shard_worker(scan_id, n_workers)


def test_every_worker_gets_its_share_of_scans() -> None:
    workers = [shard_worker(f"scan-{number}", 8) for number in range(8000)]
    counts = [workers.count(worker) for worker in range(8)]
    assert max(counts) < 1.15 * min(counts)  # sampling spread of 8 x 1,000 is 3 %


def test_hashes_are_the_known_ones() -> None:
    # sha256("abc") is the vector of FIPS 180; the others pin ids that are already in manifests and checkpoints.
    assert short_id("abc", length=64) == hashlib.sha256(b"3:abc").hexdigest()
    assert shard_worker("abc", 2**256) == 0xBA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD
    assert short_id("scan", "PM0001") == "d21ba06126329a6f"
    assert stable_int(0, "holdout", "s1") == 2777621638993040815
    assert content_hash({"b": 1, "a": [1, 2]}) == "3813f9409eb0095b"


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_short_ids_are_equal_only_for_equal_parts(left: list[str], right: list[str]) -> None:
    assert (short_id(*left, length=64) == short_id(*right, length=64)) == (left == right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", ""), ("a",)),
        (("1:a",), ("a",)),
        (("a", "b"), ("a1:b",)),
        (("", "a"), ("a", "")),
    ],
)
def test_moving_a_boundary_between_parts_changes_the_id(left: tuple[str, ...], right: tuple[str, ...]) -> None:
    assert short_id(*left) != short_id(*right)


@pytest.mark.parametrize("length", [8, 16, 64])
def test_an_id_has_the_length_asked_for(length: int) -> None:
    assert len(short_id("a", length=length)) == length
    assert short_id("a", length=length) == short_id("a", length=64)[:length]


@given(st.lists(st.one_of(st.text(), st.integers()), max_size=3))
def test_stable_ints_fit_a_signed_64_bit_integer(parts: list[str | int]) -> None:
    assert 0 <= stable_int(*parts) < 2**63


@given(st.dictionaries(st.text(), st.integers(), max_size=6))
def test_a_content_hash_ignores_the_order_of_keys(value: dict[str, int]) -> None:
    assert content_hash(dict(reversed(value.items()))) == content_hash(value)


def test_a_changed_value_changes_the_content_hash() -> None:
    assert content_hash({"lr": 1e-3}) != content_hash({"lr": 1e-4})


@pytest.mark.parametrize("python_hash_seed", ["0", "1", "12345"])
def test_another_process_computes_the_same_hashes(python_hash_seed: str) -> None:
    program = (
        "from prism_ssl.utils.hashing import *\n"
        "print(shard_worker('a', 7), short_id('a', 'b'), stable_int('a', 1), content_hash({'b': 1, 'a': 2}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": python_hash_seed}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    here = [shard_worker("a", 7), short_id("a", "b"), stable_int("a", 1), content_hash({"b": 1, "a": 2})]
    assert told == [str(value) for value in here]
