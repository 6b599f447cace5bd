"""What is shown on the dashboard: never a reason to fail, never a name, and never a name that Grafana does not find."""

from __future__ import annotations

import json
import re

import pytest
import ray
from ray.util import metrics

from prism_ssl.data.pool.dashboard import POOL_EXPORTS
from prism_ssl.train.record.dashboard import ROW_EXPORTS, STEP_EXPORTS
from prism_ssl.utils.ray_cluster.metrics_port import Export, LiveMetrics
from tests.conftest import REPOSITORY

EXPORTS = (*POOL_EXPORTS, *STEP_EXPORTS, *ROW_EXPORTS)
SUFFIXES_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


def names_on_the_dashboard() -> set[str]:
    text = (REPOSITORY / "monitoring" / "grafana_dashboard.json").read_text()
    dashboard = json.loads(text)
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 20
    queries += [variable.get("definition", "") for variable in dashboard["templating"]["list"]]
    return {name for query in queries for name in re.findall(r"ray_\w+", query)}


def test_the_dashboard_asks_for_every_metric_and_for_no_other() -> None:
    shown: set[str] = set()
    for export in EXPORTS:
        histogram = export.kind == "histogram"
        shown |= {export.exported_as + suffix for suffix in (SUFFIXES_OF_HISTOGRAMS if histogram else ("",))}
    asked = names_on_the_dashboard()
    assert asked - shown == set()
    assert shown - asked == {"ray_prism_train_step_ms_sum", "ray_prism_train_step_ms_count"}


def test_equal_names_are_one_metric_with_different_labels() -> None:
    kinds = {export.name: (export.kind, export.text, export.label and export.label[0]) for export in EXPORTS}
    assert [e for e in EXPORTS if (e.kind, e.text, e.label and e.label[0]) != kinds[e.name]] == []
    series = [(export.name, export.label) for export in EXPORTS]
    assert len(set(series)) == len(series) == len({export.source for export in EXPORTS})


def test_without_ray_nothing_is_shown_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(metrics, "Gauge", None)
    live = LiveMetrics([Export("a", "prism_a", "A")], ("pool", 0))
    live.show({"a": 1.0})
    assert live.problem is None


def test_an_error_ends_the_showing_and_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    class Gauge:
        def __init__(self, *_: object) -> None:
            pass

        def set(self, value: float, tags: dict[str, str]) -> None:
            calls.append(value)
            raise OSError(f"agent of {tags['pool']} is gone")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics, "Gauge", Gauge)
    live = LiveMetrics([Export("a", "prism_a", "A")], ("pool", 3))
    for value in (float("nan"), 1.0, 2.0):
        live.show({"a": value, "unknown": 5.0})
    assert live.problem == "OSError: agent of 3 is gone"
    assert calls == [1.0]


def test_a_counter_is_shown_what_has_been_added(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[tuple[float, dict[str, str]]] = []

    class Counter:
        def __init__(self, *_: object) -> None:
            pass

        def inc(self, value: float, tags: dict[str, str]) -> None:
            added.append((value, tags))

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(metrics, "Counter", Counter)
    live = LiveMetrics([Export("total", "prism_b", "B", "counter", ("cause", "opening"))], ("worker", 1))
    rarely = LiveMetrics([Export("total", "prism_c", "C", "counter")], ("pool", 2), pause_s=3600.0)
    for total in (0.0, 2.0, 2.0, 5.0):
        live.show({"total": total})
        rarely.show({"total": total + 1.0})
    tags = {"worker": "1", "cause": "opening"}
    assert added == [(1.0, {"pool": "2"}), (2.0, tags), (3.0, tags)]
    assert live.problem is None
