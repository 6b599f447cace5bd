"""A pair of views with the second moved by hand, and the targets of the heads for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import altair as alt
import numpy as np
import polars as pl
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_PX, PreparedScan, RobustStats, VisitKey
from prism_ssl.data.scan import OpenScan, apply_affine, stats_sample
from prism_ssl.data.views import View, draw_pair
from prism_ssl.eval.probe_set import ProbeSet
from prism_ssl.explore.chart_style import finished
from prism_ssl.model.pair_targets import AXES, TargetScales, pair_targets

_BINS = 80
_UNITS: Final = {"distance": "mm", "rotation": "degrees", "window_center": "intensity", "window_width": "intensity"}
_MEANS: Final = {
    "distance": "how far b lies from a",
    "dx": "b lies to the patient's right (+) or left (-)",
    "dy": "b lies in front (+) or behind (-)",
    "dz": "b lies above (+) or below (-)",
    "rx": "b is turned about the right-left axis",
    "ry": "b is turned about the front-back axis",
    "rz": "b is turned about the head-foot axis",
    "wc": "b's window lies higher (+): the same tissue looks darker",
    "ww": "b's window is wider (+): less contrast",
}


@dataclass(frozen=True)
class Move:
    """Change of view b from the view that training draws. Factors multiply the drawn values."""

    displacement_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Along R, A and S."""
    rotation_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius_factor: float = 1.0
    window_shift_std: float = 0.0
    window_width_factor: float = 1.0


def drawn_pair(scan: OpenScan, scan_id: str, config: PrismConfig, visit: int) -> tuple[View, View]:
    """The pair that training gets at a visit of a scan's first epoch, where it draws independent views of one scan."""
    key = VisitKey(scan_id, 0, visit)
    return draw_pair(scan.affine, scan.shape, scan.stats, config.view, config.data.n_patches, config.train.seed, key)


def moved(view: View, move: Move, stats: RobustStats) -> View:
    """The view after a move; its patches keep their places relative to the ball."""
    return dataclasses.replace(
        view,
        center_mm=view.center_mm + np.array(move.displacement_mm),
        radius_mm=view.radius_mm * move.radius_factor,
        rotation_deg=view.rotation_deg + np.array(move.rotation_deg),
        window_center=view.window_center + move.window_shift_std * stats.std,
        window_width=view.window_width * move.window_width_factor,
        positions_mm=view.positions_mm * np.float32(move.radius_factor),
    )


def share_outside(scan: OpenScan, view: View) -> float:
    """Share of a view's patch centres outside the scan, where everything counts as air."""
    voxels = apply_affine(scan.to_voxel, view.patch_centers_mm())
    inside = ((voxels >= -0.5) & (voxels <= np.array(scan.shape) - 0.5)).all(axis=1)
    return float(1 - inside.mean())


def asked_of_the_heads(pair: tuple[View, View], scan: PreparedScan, config: PrismConfig) -> pl.DataFrame:
    """One row an axis: meaning, raw difference and its unit, target of a regression head, and the sign that a
    classification head should predict (none within the dead zone)."""
    batch = _as_probe_set(pair, scan).pairs(0, 1, torch.device("cpu"))
    targets = pair_targets(batch, TargetScales.from_config(config.loss, config.view))
    rows = []
    for head, axes in AXES.items():
        target = targets[head]
        for axis, delta, unit, signed in zip(
            axes, target.delta[0].tolist(), target.unit[0].tolist(), target.signed[0].tolist(), strict=True
        ):
            sign = "-" if axis == "distance" else ("+1" if delta > 0 else "-1") if signed else "masked (dead zone)"
            rows.append((head, axis, _MEANS[axis], round(delta, 2), _UNITS[head], round(delta / unit, 3), sign))
    columns = ["head", "axis", "asks", "b - a", "unit", "regression target", "classification target"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def window_chart(scan: OpenScan, pair: tuple[View, View], unit: str) -> alt.TopLevelMixin:
    """Histogram of the scan's intensities, and the range that each window maps from black to white."""
    values = stats_sample(scan.voxels).astype(np.float64) * scan.slope + scan.intercept
    low, high = np.percentile(values, [0.5, 99.5])
    counts, edges = np.histogram(values[(values >= low) & (values <= high)], _BINS)
    bars = pl.DataFrame({"from": edges[:-1], "to": edges[1:], "share": counts / max(counts.sum(), 1)})
    windows = pl.DataFrame(
        {
            "view": ["a", "b"],
            "low": [view.window_center - view.window_width / 2 for view in pair],
            "high": [view.window_center + view.window_width / 2 for view in pair],
        }
    )
    x = alt.X("from:Q", title=f"intensity ({unit})")
    histogram = (
        alt.Chart(bars)
        .mark_bar(color="#b9c4cf")
        .encode(
            x=x,
            x2="to:Q",
            y=alt.Y(
                "share:Q",
                title="share of voxels (square root)",
                scale=alt.Scale(type="sqrt"),
                axis=alt.Axis(format="%"),
            ),
            y2=alt.datum(0),
        )
        .properties(width=640, height=170, title="Windows: what each view shows between black and white")
    )
    color = alt.Color(
        "view:N", scale=alt.Scale(domain=["a", "b"], range=["#d18f00", "#1f8fd1"]), title="window of view"
    )
    bands = (
        alt.Chart(windows)
        .mark_bar(height=14, clip=True)
        .encode(
            x=alt.X("low:Q", title=f"intensity ({unit})", scale=alt.Scale(domain=[low, high])),
            x2="high:Q",
            y=alt.Y("view:N", title=None),
            color=color,
        )
        .properties(width=640, height=44)
    )
    return finished(alt.vconcat(histogram, bands, spacing=4).resolve_scale(x="shared"))


def _as_probe_set(pair: tuple[View, View], scan: PreparedScan) -> ProbeSet:
    n_patches = len(pair[0].positions_mm)
    return ProbeSet(
        scans=[scan.record],
        scan_of_view=np.zeros(2, np.int64),
        views=list(pair),
        patches=np.zeros((2, n_patches, PATCH_PX, PATCH_PX), np.int16),
        intensity_scale=np.full(2, scan.stats.std),
        places=[None, None],
        positions=np.full((2, 3), np.nan),
        left_out=[],
    )
