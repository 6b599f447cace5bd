"""What Prometheus reads during a run, and what it must not."""

from __future__ import annotations

import math
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from prism_ssl.data.pool.dashboard import POOL_EXPORTS
from prism_ssl.train.record.dashboard import ROW_EXPORTS, STEP_EXPORTS
from prism_ssl.utils.stop_signals import EXIT_INTERRUPTED
from tests.support.cli_runs import CliRun, command, history_of, summary_of

pytestmark = pytest.mark.slow

EXPORTS = {export.source: export for export in (*POOL_EXPORTS, *STEP_EXPORTS, *ROW_EXPORTS)}
LABELS = {"pool", "worker", "cause", "at_least_ms", "objective", "kind", "le"}
OF_RAY = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "JobId"}
NOT_WITHOUT_A_GPU = {source for source in EXPORTS if source.startswith("gpu_")}
NOT_YET = {"replacement_failed_count", "nonfinite_skipped_steps", "actor_restarts", "stall_steps_ge_10000ms"}
"""Counters of what has not happened: they are shown when it does. A busy machine may have had short stalls."""


def scrape(run: CliRun) -> str:
    """The metrics port of the run's Ray node, as it answers anybody."""
    (gcs,) = run.descendants("gcs_server")
    log_dir = next(part for part in gcs.cmdline() if part.startswith("--log_dir="))
    (file,) = Path(log_dir.removeprefix("--log_dir=")).parent.glob("metrics_export_port_*")
    with urllib.request.urlopen(f"http://127.0.0.1:{file.read_text().strip()}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def samples_of(text: str) -> list[Sample]:
    families = text_string_to_metric_families(text)
    return [sample for family in families for sample in family.samples if sample.name.startswith("ray_prism_")]


def shown(samples: list[Sample], source: str) -> list[float]:
    """The values of one export, of all pools or workers."""
    export = EXPORTS[source]
    name = export.exported_as + ("_count" if export.kind == "histogram" else "")
    label = dict([export.label]) if export.label else {}
    return [s.value for s in samples if s.name == name and label.items() <= s.labels.items()]


def test_the_metrics_port_shows_every_number_of_a_run_and_no_name(
    tmp_path: Path, phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    limit = 10**15
    run = CliRun(
        command(
            tmp_path, data__catalog_path=phantom_catalog, train__max_steps=10**6, run__name="jane-doe-1970",
            quota__home_hard_bytes=limit, train__stall_warmup_steps=0,
            data__deterministic=True, data__visits_per_scan=2,  # each turn waits for its scan: there are waits to show
            model__masked_share=0.5, loss__w_masked=0.3,  # every loss has a weight: each is shown
        )
    )  # fmt: skip
    run.wait_for(r"^step +60 ")
    wanted = EXPORTS.keys() - NOT_WITHOUT_A_GPU - NOT_YET - {"stall_steps_ge_2000ms"}
    for _ in range(60):
        text = scrape(run)
        samples = samples_of(text)
        missing = {source for source in wanted if not shown(samples, source)}
        if not missing and shown(samples, "global_step")[0] >= 60:  # what is exported may be a moment old
            break
        time.sleep(0.5)
    run.terminate()
    assert run.finish() == EXIT_INTERRUPTED, run.output
    assert missing == set()

    # Nothing that tells whose scans these are.
    for secret in ("jane", "doe-1970", str(tmp_path), phantom_catalog.stem, *scan_ids(phantom_catalog)):
        assert secret not in text
    assert {key for sample in samples for key in sample.labels if not key.startswith("otel_")} <= LABELS | OF_RAY
    assert {s.labels["pool"] for s in samples if "pool" in s.labels} == {"0", "1"}
    assert {s.labels["worker"] for s in samples if "worker" in s.labels} == {"0"}

    # What the record of the run says, too.
    rows, totals = history_of(tmp_path), summary_of(tmp_path)["totals"]
    (step,) = shown(samples, "global_step")
    assert 60 <= step <= summary_of(tmp_path)["steps_done"]
    assert shown(samples, "step_ms")[0] == pytest.approx(step, abs=1)  # an export may end between two of its numbers
    assert shown(samples, "max_steps") == [10**6]
    assert shown(samples, "quota/home_hard_bytes") == [limit]
    for source in ("loss/total", "loss/supcon", "chance/distance", "patches_per_sec_interval", "data_wait_share"):
        (value,) = shown(samples, source)
        assert any(math.isclose(value, row[source], rel_tol=1e-6) for row in rows), source
    for source in ("replacement_completed_count", "open_time_ms_total"):
        assert 0 < sum(shown(samples, source)) <= totals[source]
    assert 0 < shown(samples, "coverage")[0] <= 1
    # Three slots, each with a successor that waits for its turn.
    assert [1 <= value <= 6 for value in shown(samples, "open_scans")] == [True, True]
    assert 0 <= shown(samples, "chunks_ready")[0] <= shown(samples, "chunks_in_flight")[0] == 4
    for source in ("rss_bytes", "trainer_rss_bytes"):
        assert all(50e6 < value < 20e9 for value in shown(samples, source))
    assert 0 < shown(samples, "quota/tmp_free_bytes")[0] < 1e16


def scan_ids(catalog: Path) -> list[str]:
    from prism_ssl.config.defaults import phantom_cpu
    from prism_ssl.data.catalog import load_records

    data = phantom_cpu().data.__class__(catalog_path=str(catalog))
    records = load_records(data, 0).records
    return [part for record in records for part in (record.scan_id, record.series_id, record.subject_id)]
