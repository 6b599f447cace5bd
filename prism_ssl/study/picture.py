"""Picture of the study's table: place recall of each row, of each patient, and the 95 % interval over patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from prism_ssl.eval.quality.evidence import PatientEvidence
from prism_ssl.study.results import BASELINES, over_patients, place_by_patient, untrained
from prism_ssl.study.rows import ROWS
from prism_ssl.utils.fs import write_atomic

_AXIS = "same place, other series: recall@1 of each patient (grey), their mean and its 95 % interval; dashed: chance"


def write_picture(path: Path, evidence: Mapping[str, PatientEvidence], chance: float | None) -> None:
    """Write the picture as .png; nothing where no row has a pair of series.

    Args:
        path: the file.
        evidence: name of a row -> evidence by patient; the first row's has that of the baselines too.
        chance: recall@1 of guessing; None: not known.
    """
    shown = {ROWS[name].title: evidence[name] for name in ROWS if name in evidence}
    first = evidence.get(next(iter(ROWS)))
    for title, ending in BASELINES.items():
        if first is not None and (own := untrained(first, ending)) is not None:
            shown[title] = own
    recall = {title: place_by_patient(found) for title, found in shown.items()}
    if any(recall.values()):
        write_atomic(path, vl_convert.vegalite_to_png(chart(recall, chance), scale=2.0))


def chart(recall: Mapping[str, Mapping[str, float]], chance: float | None) -> dict[str, Any]:
    """Vega-Lite specification of the picture; ``recall``: title of a row -> patient -> recall@1."""
    patients = [{"row": row, "recall": value} for row, known in recall.items() for value in known.values()]
    means = [{"row": row, **_span(known)} for row, known in recall.items() if known]
    y = alt.Y("row:N", title=None, sort=list(recall), axis=alt.Axis(labelLimit=320))
    x = alt.X("recall:Q", title=_AXIS, scale=alt.Scale(domain=[0, 1], clamp=True))
    dots = (
        alt.Chart(pl.DataFrame(patients))
        .mark_circle(size=26, opacity=0.5, color="#777777", yOffset=11)
        .encode(x=x, y=y)
    )
    base = alt.Chart(pl.DataFrame(means, infer_schema_length=None))
    spans = base.mark_rule(strokeWidth=2.5, color="#1f5fa8").encode(x="low:Q", x2="high:Q", y=y)
    middles = base.mark_point(filled=True, size=110, opacity=1, color="#1f5fa8").encode(x=x, y=y)
    told = base.mark_text(dy=-13, fontWeight="bold", color="#1f5fa8").encode(
        x=x, y=y, text=alt.Text("recall:Q", format=".2f")
    )
    layers: list[alt.Chart] = [dots, spans, middles, told]
    if chance is not None and math.isfinite(chance):
        layers.insert(
            0, alt.Chart(pl.DataFrame({"chance": [chance]})).mark_rule(strokeDash=[4, 4]).encode(x="chance:Q")
        )
    spec: dict[str, Any] = alt.layer(*layers).properties(width=460, height=alt.Step(44)).to_dict()
    return spec


def _span(known: Mapping[str, float]) -> dict[str, Any]:
    interval = over_patients(list(known.values()))
    ends = {"low": interval.low, "high": interval.high}
    return {"recall": interval.mean} | {name: end if math.isfinite(end) else None for name, end in ends.items()}
