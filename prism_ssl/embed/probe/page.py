"""The page and the picture of a probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import polars as pl
import vl_convert

from prism_ssl.embed.probe.compare import Found
from prism_ssl.embed.probe.landmarks import POSITION, LandmarksFound
from prism_ssl.embed.probe.segmentation import Segmented
from prism_ssl.eval.patients import FOLDS_MAX, Estimate
from prism_ssl.utils.fs import write_atomic

PAGE, PICTURE = "probe.md", "probe.png"
_SCALE = 2


def write_page(
    folder: Path, found: Sequence[Found], segmented: Segmented | None, landmarks: LandmarksFound | None = None
) -> Path:
    """Write probe.md and probe.png into ``folder``; no path and no id is in them. Returns the page's path."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    picture: bytes = vl_convert.vegalite_to_png(_picture(found, segmented, landmarks).to_json(), scale=_SCALE)
    write_atomic(folder / PICTURE, picture)
    parts = ["# Probes of the frozen embeddings", _METHOD.format(folds=FOLDS_MAX)] if found or segmented else []
    parts = [*(parts or ["# Landmarks in other patients"]), f"![scores]({PICTURE})"]
    parts += [_label_part(each) for each in found]
    parts += [] if segmented is None else [_segmented_part(segmented)]
    parts += _absent({row.encoder for each in found for row in each.rows}, "--beside {name}=FILE")
    parts += _absent({row.encoder for row in segmented.rows} if segmented else set(), "--beside-fields {name}=FOLDER")
    parts += [] if landmarks is None else [_landmarks_part(landmarks)]
    asked = {row.encoder for row in landmarks.rows} if landmarks else set()
    parts += _absent(asked, "--beside-points {name}=FOLDER")
    write_atomic(folder / PAGE, ("\n\n".join(parts) + "\n").encode())
    return folder / PAGE


_METHOD = (
    "The label of each scan is predicted by a linear probe (logistic regression with balanced classes, or ridge "
    "regression, on standardised embeddings) that was fitted on other patients, in at most {folds} folds. Intervals "
    "are 95 % over "
    "patients (bootstrap, expanded for few patients); they do not cover another draw of the folds or another training "
    "of the encoder. Differences are paired: the same patients are drawn for both encoders."
)


_LANDMARKS = (
    "Each landmark of a scan asks for the most similar one among the landmarks of every other patient's scan. Every "
    "pair of patients counts once; intervals are 95 % over patients (jackknife), differences paired. Less mean: the "
    f"mean vector of each scan is taken off first. {POSITION.capitalize()} knows no image: it takes the landmark that "
    "lies nearest, measured from the middle of the scan's landmarks; a shift of one scan onto the other finds as much."
)


def _absent(encoders: set[str], option: str) -> list[str]:
    """A paragraph about the comparisons that are missing beside the ``encoders`` of a section."""
    absent = [name for name in ("random", "pixels") if not any(name in known for known in encoders)]
    if not encoders or not absent:
        return []
    options = " and ".join(f"`{option.format(name=name)}`" for name in absent)
    return [
        f"**Not compared with {' and '.join(absent)}**: embed the same scans by the same command with `--weights "
        f"{absent[0]}`, and add {options}. Scanners and body parts can be told apart without any training."
    ]


def words(value: Estimate | None, signed: bool = False) -> str:
    """An estimate for people, such as "0.62 (0.51 to 0.73)"."""
    if value is None or not math.isfinite(value.value):
        return "-"
    form = "{:+.2f}" if signed else "{:.2f}"
    if not math.isfinite(value.low):
        return form.format(value.value)
    return f"{form.format(value.value)} ({form.format(value.low)} to {form.format(value.high)})"


def _label_part(found: Found) -> str:
    classes = ", ".join(f"{name} {count}" for name, count in list(found.classes.items())[:8])
    head = f"{found.scans} scans of {found.patients} patients{f' ({classes})' if classes else ''}."
    lines = [
        f"## {found.label}",
        "",
        head,
        "",
        f"| encoder | {found.measure} | `embeddings` better by |",
        "|---|---|---|",
    ]
    lines += [f"| {row.encoder} | {words(row.score)} | {words(row.better, signed=True)} |" for row in found.rows]
    lines += [f"| chance | {found.chance:.2f} | |"]
    sizes = list(found.rows[0].curve)
    if len(sizes) > 1:
        lines += ["", "By the number of patients fitted on:", ""]
        lines += [f"| encoder | {' | '.join(map(str, sizes))} |", "|---" * (len(sizes) + 1) + "|"]
        for row in found.rows:
            lines.append(f"| {row.encoder} | {' | '.join(f'{row.curve[size]:.2f}' for size in sizes)} |")
    return "\n".join(lines)


def _segmented_part(found: Segmented) -> str:
    lines = [
        "## Label of the masks",
        "",
        f"{found.points} lattice points of {found.scans} scans, {found.within} within the label; "
        f"{found.patients} patients are scored. The threshold of Dice is chosen on the patients fitted on.",
        "",
        "| encoder | AUROC | better by | Dice | better by |",
        "|---|---|---|---|---|",
    ]
    for row in found.rows:
        gains = words(row.better_auroc, signed=True), words(row.better_dice, signed=True)
        lines.append(f"| {row.encoder} | {words(row.auroc)} | {gains[0]} | {words(row.dice)} | {gains[1]} |")
    return "\n".join([*lines, f"| chance | 0.50 | | {found.dice_chance:.2f} (all points called) | |"])


def _landmarks_part(found: LandmarksFound) -> str:
    across = any(row.across is not None for row in found.rows)
    lines = [
        "## Landmarks in other patients",
        "",
        f"{found.landmarks} landmarks, {found.scans} scans of {found.patients} patients. {_LANDMARKS}",
        "",
        "| encoder | recall@1 | `embeddings` better by | distance, mm | less mean |" + across * " CT with MR |",
        f"{'|---' * (6 if across else 5)}|",
    ]
    for row in found.rows:
        cells = [words(row.recall), words(row.better, signed=True), f"{row.distance_mm.value:.0f}", words(row.centred)]
        cells += [words(row.across)] if across else []
        lines.append(f"| {row.encoder} | {' | '.join(cells)} |")
    rest = " | |" if across else " |"
    return "\n".join([*lines, f"| chance | {found.chance:.2f} | | {found.chance_mm:.0f} |{rest}"])


def _picture(found: Sequence[Found], segmented: Segmented | None, landmarks: LandmarksFound | None) -> alt.VConcatChart:
    rows = [
        _bar(f"{each.label} ({each.measure})", row.encoder, row.score, each.chance)
        for each in found
        for row in each.rows
    ]
    for row in segmented.rows if segmented else ():
        rows += [_bar("masks (AUROC)", row.encoder, row.auroc, 0.5), _bar("masks (Dice)", row.encoder, row.dice, None)]
    if landmarks is not None:
        task = "landmarks in other patients (recall@1)"
        rows += [_bar(task, each.encoder, each.recall, landmarks.chance) for each in landmarks.rows]
    base = alt.Chart(pl.DataFrame(rows, infer_schema_length=None), width=420, height=alt.Step(22))
    color = alt.Color("encoder:N", title=None, sort=None)
    y = alt.Y("encoder:N", title=None, sort=None)
    score = alt.X("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    marks = base.mark_point(filled=True, size=60, opacity=1).encode(x=score, y=y, color=color)
    spans = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y, color=color)
    chance = base.mark_rule(strokeDash=[4, 4], color="#888888").encode(x="chance:Q")
    header = alt.Header(labelAngle=0, labelOrient="top", labelAnchor="start", labelFontWeight="bold")
    above = alt.layer(chance, spans, marks).facet(row=alt.Row("task:N", title=None, sort=None, header=header))
    title = "score with its 95 % interval over patients; dashed: chance"
    charts: list[alt.Chart | alt.FacetChart] = [above.resolve_scale(x="independent").properties(title=title)]
    curves = [
        {"task": each.label, "encoder": row.encoder, "patients": size, "score": value}
        for each in found
        for row in each.rows
        for size, value in row.curve.items()
    ]
    if curves:
        lines = alt.Chart(pl.DataFrame(curves), width=260, height=170).mark_line(point=True)
        patients = alt.X("patients:Q", title="patients fitted on", scale=alt.Scale(type="log", base=2))
        lines = lines.encode(x=patients, y=alt.Y("score:Q", scale=alt.Scale(zero=False)), color=color)
        charts.append(lines.facet(column=alt.Column("task:N", title=None, sort=None)).resolve_scale(y="independent"))
    return alt.vconcat(*charts)


def _bar(task: str, encoder: str, score: Estimate, chance: float | None) -> dict[str, str | float | None]:
    known = {"value": score.value, "low": score.low, "high": score.high}
    numbers = {name: value if math.isfinite(value) else None for name, value in known.items()}
    return {"task": task, "encoder": encoder, "chance": chance, **numbers}
