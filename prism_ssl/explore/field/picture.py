"""Pictures of fields beside the slices that they lie in: colours of one basis, and similarity to one point.

Slices lie along R, A and S in millimetres, all of a picture on one scale, in radiological convention (``view_panel``).
Each cell of a lattice has the value of its point; where the field has none, the slice is shown alone. Nothing but
hashed ids is written into a picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patheffects import withStroke

from prism_ssl.contracts import Float64
from prism_ssl.explore.field.likeness import Found, common_colours, most_similar, similarity_to
from prism_ssl.explore.field.shown_scan import ShownScan, in_one_frame, start_place
from prism_ssl.inspect.view_panel import (
    CONVENTION,
    PLANES,
    Plane,
    bounding_box_mm,
    dark_figure,
    draw_frame,
    gray_range,
    plane_points_mm,
    slice_mm,
)

_WIDTH_IN, _ROW_MAX_IN, _WORDS_IN = 17.0, 6.0, 0.42
_GAP_MM, _RULER_MM = 4.0, 50.0
_GAP_TOLD_MM = 20.0  # a place further from all points of its field is told
_ASKED, _FOUND, _TRUE = "#ffb000", "#4cc3ff", "#6fdc6f"
_SIMILARITY_COLOURS = "magma"
_LEAST_PERCENT = 5.0  # of the similarities of a scan: shown as black


@dataclass(frozen=True)
class Mark:
    """A RAS place [3] to be marked, its colour, and its sign: as matplotlib names markers."""

    place_mm: Float64
    color: str
    sign: str


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a picture: a scan, the place where its three planes cross, RGB [M, 3] of its field, marks, a heading."""

    shown: ShownScan
    center_mm: Float64
    rgb: Float64
    marks: tuple[Mark, ...]
    heading: str


def draw_fields(
    scans: Sequence[ShownScan], place_mm: Sequence[float] | Float64 | None, show: str
) -> tuple[bytes, list[str]]:
    """The picture of one scan or of two, as PNG, and what it shows, a line each.

    Args:
        scans: the scan that ``place_mm`` is in, and another one, if wanted.
        place_mm: RAS [3]; None: the middle of what is to be shown.
        show: "colours" or "similarity" (to that place of the first scan).
    """
    first, other = scans[0], scans[1] if len(scans) > 1 else None
    one_frame = other is not None and in_one_frame(first, other)
    place = start_place(scans) if place_mm is None else np.asarray(place_mm, np.float64)
    if show == "similarity":
        return similarity_picture(first, place, other, one_frame)
    return colours_picture(scans, [place if shown is first or one_frame else shown.middle_mm for shown in scans])


def colours_of(scans: Sequence[ShownScan], place_mm: Float64, show: str) -> Float64:
    """RGB [M, 3] of the first scan's points, as ``draw_fields`` shows them."""
    if show != "similarity":
        return common_colours([shown.field for shown in scans]).rgb[0]
    field = scans[0].field
    return _heat(similarity_to(field, field.closest(place_mm), field))


def colours_picture(scans: Sequence[ShownScan], at_mm: Sequence[Float64]) -> tuple[bytes, list[str]]:
    """A PNG, and its headings: each scan on planes through its place ``at_mm`` [3], beside the colours of its field,
    all of one basis."""
    colours = common_colours([shown.field for shown in scans])
    rows = [
        Row(shown, place, rgb, (), f"{shown.name}   {place_in_words(place)}")
        for shown, place, rgb in zip(scans, at_mm, colours.rgb, strict=True)
    ]
    share = ", ".join(f"{name} {part:.0%}" for name, part in zip(("red", "green", "blue"), colours.share, strict=False))
    basis = "one basis for both scans" if len(scans) > 1 else "three principal components"
    legend = f"equal colours: similar vectors ({basis}); share of the variance: {share}"
    return _png(fields_figure(rows, legend)), _said(rows)


def similarity_picture(
    asked: ShownScan, place_mm: Float64, other: ShownScan | None, one_frame: bool
) -> tuple[bytes, list[str]]:
    """A PNG, and its headings.

    Its first row is ``asked`` on planes through the point of its field closest to ``place_mm`` [3], with the similarity
    of that point to all others; its second row is ``other`` on planes through the point that is most similar to it. The
    true place is marked there where both scans are in ``one_frame``.
    """
    row = asked.field.closest(place_mm)
    point = asked.field.points_mm[row]
    similarity = similarity_to(asked.field, row, asked.field)
    words = f"{asked.name}   asked: {place_in_words(point)}"
    if (gap := float(np.linalg.norm(point - place_mm))) > _GAP_TOLD_MM:
        words += f", the point of the field closest to {place_in_words(place_mm)} ({gap:.0f} mm away)"
    rows = [Row(asked, point, _heat(similarity), (Mark(point, _ASKED, "+"),), words + _least_in_words(similarity))]
    legend = "bright: cosine with the point asked for (yellow +)"
    if other is not None:
        similarity = similarity_to(asked.field, row, other.field)
        known = one_frame and other.field.rows_at(point) >= 0
        found = most_similar(similarity, other.field, point if known else None)
        best = other.field.points_mm[found.row]
        marks = (Mark(best, _FOUND, "x"), *((Mark(point, _TRUE, "o"),) if known else ()))
        words = f"{other.name}   {_found_in_words(found, best)}{_least_in_words(similarity)}"
        rows.append(Row(other, best, _heat(similarity), marks, words))
        legend += "; blue x: the most similar point"
        legend += "; green o: the true place, projected onto the slice" if known else ""
    return _png(fields_figure(rows, legend)), _said(rows)


def _said(rows: Sequence[Row]) -> list[str]:
    return [row.heading for row in rows]


def _found_in_words(found: Found, best_mm: Float64) -> str:
    """Such as "most similar: R 1, A 2, S 3 mm, cosine 0.910; 8 mm from the true place, where the cosine is 0.880"."""
    told = f"most similar: {place_in_words(best_mm)}, cosine {found.similarity:.3f}"
    if found.off_mm is None:
        return f"{told}; the true place is not known (no common frame of reference, or no point there)"
    return f"{told}; {found.off_mm:.0f} mm from the true place, where the cosine is {found.similarity_there:.3f}"


def place_in_words(place_mm: Float64) -> str:
    """Such as "R 12, A -3, S 40 mm"."""
    return f"R {place_mm[0]:.0f}, A {place_mm[1]:.0f}, S {place_mm[2]:.0f} mm"


def _least_in_words(similarity: Float64) -> str:
    return f"; black: {np.percentile(similarity, _LEAST_PERCENT):.2f} or less"


def _heat(similarity: Float64) -> Float64:
    low = np.percentile(similarity, _LEAST_PERCENT)
    level = (similarity - low) / max(float(similarity.max() - low), 1e-12)
    rgb: Float64 = mpl.colormaps[_SIMILARITY_COLOURS](np.clip(level, 0.0, 1.0))[:, :3]
    return rgb


# ---------------------------------------------------------------------- drawing
def fields_figure(rows: Sequence[Row], legend: str) -> Figure:
    """Rows of slices and fields with their headings, and a legend below; not drawn yet."""
    boxes = [_box_mm(row) for row in rows]
    sides = np.array([box[1] - box[0] for box in boxes])  # [rows, 3]
    across_mm = [float(sides[:, plane.across].max()) for plane in PLANES]
    tall_mm = [max(side[plane.up] for plane in PLANES) for side in sides]
    scale = min(_WIDTH_IN / (2 * sum(across_mm) + 7 * _GAP_MM), _ROW_MAX_IN / max(tall_mm))
    heights = [*(scale * mm + _WORDS_IN for mm in tall_mm), _WORDS_IN]
    figure = dark_figure(_WIDTH_IN, sum(heights))
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    for part, row, box, height in zip(parts, rows, boxes, heights, strict=False):
        part.text(0.01, 1 - 0.25 * _WORDS_IN / height, row.heading, color="white", fontsize=13, va="top")
        _draw_row(part, row, box, across_mm, (scale / _WIDTH_IN, scale / height))
    parts[-1].text(0.01, 0.5, legend, color="#bbbbbb", fontsize=11, va="center")
    parts[-1].text(0.99, 0.5, CONVENTION, color="#bbbbbb", fontsize=11, va="center", ha="right")
    for part in parts:
        part.set_facecolor("#111111")
    return figure


def _draw_row(part: SubFigure, row: Row, box: Float64, across_mm: Sequence[float], scale: tuple[float, float]) -> None:
    """Pairs of a slice and the same slice under its field, in columns of ``across_mm``; ``scale``: parts of a mm."""
    sides, left = box[1] - box[0], _GAP_MM
    tallest = max(sides[plane.up] for plane in PLANES)
    for plane, column_mm in zip(PLANES, across_mm, strict=True):
        wide, tall = sides[plane.across], sides[plane.up]
        for with_field in (False, True):
            bottom = (tallest - tall) / 2
            ax = part.add_axes((left * scale[0], bottom * scale[1], wide * scale[0], tall * scale[1]))
            _draw_plane(ax, row, plane, box, with_field)
            left += column_mm + _GAP_MM / 2
        left += _GAP_MM


def _draw_plane(ax: Axes, row: Row, plane: Plane, box: Float64, with_field: bool) -> None:
    extent = (*box[:: plane.across_sign, plane.across], *box[:, plane.up])
    where: dict[str, Any] = {"origin": "lower", "extent": extent, "aspect": "auto", "interpolation": "nearest"}
    low, high = gray_range(row.shown.scan)
    ax.imshow(slice_mm(row.shown.scan, plane, row.center_mm, box), cmap="gray", vmin=low, vmax=high, **where)
    draw_frame(ax, () if with_field else plane.letters)
    if with_field:
        rows = row.shown.field.rows_at(plane_points_mm(plane, row.center_mm, box))
        ax.imshow(np.dstack([row.rgb[rows], rows >= 0]), **where)
    elif plane is PLANES[0]:
        _draw_ruler(ax, extent)
    for mark in row.marks:
        x, y = mark.place_mm[[plane.across, plane.up]]
        ax.plot(x, y, mark.sign, color=mark.color, markersize=11, markeredgewidth=2, markerfacecolor="none")
    ax.set(xlim=extent[:2], ylim=extent[2:])


def _draw_ruler(ax: Axes, extent: Sequence[float]) -> None:
    left, right, bottom, top = extent
    start, height = left + 0.04 * (right - left), bottom + 0.04 * (top - bottom)
    ax.plot([start, start + np.sign(right - left) * _RULER_MM], [height] * 2, color="white", linewidth=2)
    text = ax.text(start, height + 0.02 * (top - bottom), f"{_RULER_MM:g} mm", color="white", fontsize=9, va="bottom")
    text.set(path_effects=[withStroke(linewidth=2, foreground="black")])  # seen on white tissue


def _box_mm(row: Row) -> Float64:
    """The cells of the field within the scan, [2, 3]."""
    points, half = row.shown.field.points_mm, np.abs(row.shown.field.affine[:3, :3]).sum(axis=1) / 2
    scan = bounding_box_mm(row.shown.scan)
    return np.stack([np.maximum(scan[0], points.min(axis=0) - half), np.minimum(scan[1], points.max(axis=0) + half)])


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor=figure.get_facecolor())
    return picture.getvalue()
