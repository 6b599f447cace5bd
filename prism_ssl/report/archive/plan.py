"""Loading plan: what a run will ask of the scans, from the times measured on a sample."""

from __future__ import annotations

from prism_ssl.config.schema import PrismConfig
from prism_ssl.report.archive.view_sample import ViewSample


def loading_plan(config: PrismConfig, sample: ViewSample, scans: int, cpus: int) -> list[tuple[str, str]]:
    """Lines (what, how much) for a run that trains on so many scans, and whose pool actors have ``cpus`` cores.

    An upper bound of the speed: the cores do nothing but open scans and cut out views.
    """
    train, data = config.train, config.data
    pairs = train.max_steps * train.batch_size
    openings = pairs / data.visits_per_scan
    open_s, cut_s = openings * sample.open_s, pairs * 2 * sample.view_ms / 1e3
    batch_s = train.batch_size * (sample.open_s / data.visits_per_scan + 2 * sample.view_ms / 1e3) / cpus
    opened = (
        f"{openings:,.0f}, one for {data.visits_per_scan} pairs: each of {scans:,} scans {openings / scans:,.1f} times"
    )
    whole = f"at least {_span((open_s + cut_s) / cpus)} in all, at most {1 / batch_s:.1f} steps/s"
    return [
        ("pairs of views", f"{pairs:,} ({train.max_steps:,} steps of {train.batch_size})"),
        ("scans opened", opened),
        ("to open a scan", f"{sample.open_s:.2f} s, to cut out a view {sample.view_ms:.2f} ms (medians, one thread)"),
        ("to open all of them", f"{_span(open_s)} of one core, to cut out all views {_span(cut_s)}"),
        (f"both on {cpus} cores", whole),
    ]


def _span(seconds: float) -> str:
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:,.1f} h"
