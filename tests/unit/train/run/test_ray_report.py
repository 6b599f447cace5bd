"""What Ray's own views are told, and what becomes of a view that cannot be told."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train

from prism_ssl.train.distributed.ranks import Ranks
from prism_ssl.train.guards import stop_request
from prism_ssl.train.run.ray_report import ReportCallback, _somebody_listens, report_to_ray
from prism_ssl.train.worker import Attempt


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What the controller of a fit is told."""
    words: list[Any] = []
    monkeypatch.setattr(ray.train, "report", words.append)
    yield words
    _somebody_listens.clear()


def test_a_loop_without_ray_train_tells_nobody(told: list[Any]) -> None:
    assert report_to_ray(5, {"loss/total": 1.0}) is None
    assert told == []


def test_the_step_and_a_few_finite_scalars_are_told(told: list[Any]) -> None:
    ReportCallback().after_init_train_context()
    assert report_to_ray(5, {"loss/total": 1.0, "lr": math.nan, "grad_norm": 2.0}) is None
    assert told == [{"global_step": 5, "loss/total": 1.0}]


def test_a_controller_that_fails_is_named_once_and_ends_nothing(
    told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: Any) -> None:
        raise RuntimeError("no controller")

    ReportCallback().after_init_train_context()
    monkeypatch.setattr(ray.train, "report", gone)
    assert report_to_ray(5, {}) == "Ray's own views are no longer updated (RuntimeError: no controller)"
    assert report_to_ray(6, {}) is None


@pytest.mark.parametrize("stopping", [False, True])
def test_who_was_asked_to_stop_waits_for_no_controller_that_waits_for_him(
    told: list[Any], monkeypatch: pytest.MonkeyPatch, stopping: bool
) -> None:
    monkeypatch.setattr(stop_request, "_requested", threading.Event())
    ReportCallback().after_init_train_context()
    if stopping:
        stop_request._requested.set()
    attempt: Any = Attempt.__new__(Attempt)
    attempt._ranks = Ranks.here(60.0)
    attempt._recorder = SimpleNamespace(steps_done=5, shown={})
    attempt.report()
    assert told == ([] if stopping else [{"global_step": 5}])
