"""Picture of a pair of views: their place in the scan, the patches the encoder sees, and the targets.

Slices are cut along R, A and S in millimetres, so every scan has its true proportions for any voxel size.
Radiological convention: the patient's right is on the left of axial and coronal slices; sagittal slices look from
the patient's left (anterior on the left). Nothing but hashed ids is written into the picture.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prism_ssl.utils.fs import private_folder, temporary_root, write_atomic

os.environ.setdefault("MPLCONFIGDIR", str(private_folder(temporary_root() / "matplotlib")))  # not in the home

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float32, Float64, PreparedScan
from prism_ssl.data.extract import extract_view, measure_visibility
from prism_ssl.data.scan import OpenScan, apply_affine
from prism_ssl.data.views import View
from prism_ssl.inspect.view_words import pair_in_words, unit_of, view_window_in_words, visibility_in_words

CONVENTION = "radiological convention: the patient's right is on the left of the picture"

_COLORS = {"a": "#ffb000", "b": "#4cc3ff"}
_NOTHING_COLOR = "#ff5c5c"
_AXIS_COLORS = ("#ff5c5c", "#6fdc6f", "#7f9cff")  # the prism's own R, A, S
_PATCHES_PER_SIDE = 5
_SLICE_PX = 220  # along the longer side: enough for a panel, whatever the scan


class Plane(NamedTuple):
    """RAS axes shown to the right and upwards of a slice, their signs, and the letters at left, right, bottom, top."""

    name: str
    across: int
    up: int
    across_sign: int
    letters: tuple[str, str, str, str]


PLANES = (
    Plane("axial", 0, 1, -1, ("R", "L", "P", "A")),
    Plane("coronal", 0, 2, -1, ("R", "L", "I", "S")),
    Plane("sagittal", 1, 2, -1, ("A", "P", "I", "S")),
)


def draw_panel(scan: OpenScan, prepared: PreparedScan, pair: tuple[View, View], patch_mm: float) -> bytes:
    """The picture of a pair as PNG."""
    figure = panel_figure(scan, prepared, pair, patch_mm)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor=figure.get_facecolor())
    return picture.getvalue()


def panel_figure(scan: OpenScan, prepared: PreparedScan, pair: tuple[View, View], patch_mm: float) -> Figure:
    """The picture of a pair, not drawn yet."""
    figure = dark_figure(17, 9.6)
    parts: Any = figure.subfigures(4, 1, height_ratios=(0.55, 4, 4, 1.05))
    head, *rows, foot = parts
    for subfigure in (head, *rows, foot):
        subfigure.set_facecolor("#111111")
    _title(head, scan, prepared)
    unit = unit_of(prepared.record)
    views = dict(zip("ab", pair, strict=True))
    for row, name in zip(rows, views, strict=True):
        slices, patches = row.subfigures(1, 2, width_ratios=(1.5, 1))
        slices.set_facecolor("#111111")
        patches.set_facecolor("#111111")
        _draw_slices(slices, scan, views, name)
        _draw_patches(patches, scan, views[name], name, patch_mm, unit)
    foot.text(0.02, 0.92, pair_in_words(*pair, unit), color="white", fontsize=13, va="top", linespacing=1.45)
    legend = (
        f"{CONVENTION}; sagittal: anterior on the left\n"
        "solid: the prism that the slice goes through; dashed: the other one, faint where the slice misses it\n"
        "arrows: the prism's own axes (red R, green A, blue S); patches: the nearest to the centre"
    )
    foot.text(0.98, 0.92, legend, color="#bbbbbb", fontsize=10, va="top", ha="right", linespacing=1.45)
    return figure


def dark_figure(width_in: float, height_in: float) -> Figure:
    """An empty picture in the colours of a reading room, 100 pixels an inch."""
    return Figure(figsize=(width_in, height_in), dpi=100, facecolor="#111111")


def gray_range(scan: OpenScan) -> tuple[float, float]:
    """Rescaled values shown as black and as white: most of the foreground lies between."""
    stats = scan.stats
    return max(stats.lowest, stats.median - 4 * stats.std), stats.median + 2.5 * stats.std


def save_panel(path: Path, scan: OpenScan, prepared: PreparedScan, pair: tuple[View, View], patch_mm: float) -> Path:
    """Write the picture, whole or not at all."""
    write_atomic(path, draw_panel(scan, prepared, pair, patch_mm))
    return path


def _title(head: SubFigure, scan: OpenScan, prepared: PreparedScan) -> None:
    shape = " x ".join(str(n) for n in scan.shape)
    spacing = " x ".join(f"{mm:.2f}" for mm in scan.spacing_mm)
    text = f"scan {prepared.record.scan_id}   {prepared.record.modality}   {shape} voxels of {spacing} mm"
    head.text(0.02, 0.45, text, color="white", fontsize=15, va="center")


# ---------------------------------------------------------------------- slices
def _draw_slices(figure: SubFigure, scan: OpenScan, views: dict[str, View], name: str) -> None:
    box = bounding_box_mm(scan)
    low, high = gray_range(scan)
    axes: Sequence[Axes] = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.03, right=0.99, top=0.9, bottom=0.05, wspace=0.08)
    for ax, plane in zip(axes, PLANES, strict=True):
        center = views[name].center_mm
        through = 3 - plane.across - plane.up
        image = slice_mm(scan, plane, center, box)
        extent = (*box[:: plane.across_sign, plane.across], *box[:, plane.up])
        ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, aspect="equal")
        for other, view in views.items():
            _draw_prism(ax, view, plane, center, other, own=other == name)
        position = f"{'RAS'[through]} = {center[through]:.0f} mm"
        ax.set_title(f"{plane.name} through {name}, {position}", color=_COLORS[name], fontsize=11)
        draw_frame(ax, plane.letters)


def bounding_box_mm(scan: OpenScan) -> Float64:
    """Lowest and highest R, A and S of a scan's outermost voxel faces, [2, 3]."""
    faces = [(-0.5, n - 0.5) for n in scan.shape]
    corners = apply_affine(scan.affine, list(itertools.product(*faces)))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def plane_points_mm(plane: Plane, center_mm: Float64, box: Float64) -> Float64:
    """RAS points [up, across, 3] on the plane through the centre, as shown, that fill the box [2, 3]."""
    sides = box[1] - box[0]
    step = max(sides[plane.across], sides[plane.up]) / _SLICE_PX
    across, up = (np.arange(box[0, axis] + step / 2, box[1, axis], step) for axis in (plane.across, plane.up))
    points = np.empty((len(up), len(across), 3))
    points[:] = center_mm
    points[..., plane.across] = across[:: plane.across_sign]
    points[..., plane.up] = up[:, None]
    return points


def slice_mm(scan: OpenScan, plane: Plane, center_mm: Float64, box: Float64) -> Float64:
    """Nearest voxels on the plane through the centre, [up, across], as shown; the lowest value outside the scan."""
    points = plane_points_mm(plane, center_mm, box)
    i, j, k = np.moveaxis(np.rint(apply_affine(scan.to_voxel, points)).astype(np.int64), -1, 0)
    nx, ny, nz = scan.shape
    inside = (i >= 0) & (i < nx) & (j >= 0) & (j < ny) & (k >= 0) & (k < nz)
    values = np.full(i.shape, scan.stats.lowest)
    values[inside] = scan.slope * scan.voxels[k[inside], j[inside], i[inside]].astype(np.float64) + scan.intercept
    return values


def _draw_prism(ax: Axes, view: View, plane: Plane, slice_mm: Float64, name: str, own: bool) -> None:
    """The ball where the slice cuts it (else its projection), and the axes of the prism in its own slice."""
    through = 3 - plane.across - plane.up
    x, y = float(view.center_mm[plane.across]), float(view.center_mm[plane.up])
    off = abs(float(view.center_mm[through] - slice_mm[through]))
    cut = off < view.radius_mm
    radius = float(np.sqrt(view.radius_mm**2 - off**2)) if cut else view.radius_mm
    style, alpha = ("-", 1.0) if own else ("--", 0.95 if cut else 0.45)
    ax.add_patch(
        Circle((x, y), radius, fill=False, edgecolor=_COLORS[name], linestyle=style, linewidth=1.6, alpha=alpha)
    )
    ax.text(
        x, y + radius * 0.95, name, color=_COLORS[name], fontsize=14, weight="bold", ha="center", va="top", alpha=alpha
    )
    if not own:
        return
    for direction, color in zip(view.rotation.T, _AXIS_COLORS, strict=True):
        dx, dy = (float(direction[axis]) * view.radius_mm for axis in (plane.across, plane.up))
        arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=(x + dx, y + dy), xytext=(x, y), arrowprops=arrow)


def draw_frame(ax: Axes, letters: Sequence[str]) -> None:
    """No ticks, and ``letters`` at the left, right, bottom and top, if there are any."""
    ax.set_xticks([])
    ax.set_yticks([])
    for (x, y), letter in zip(((0.03, 0.5), (0.97, 0.5), (0.5, 0.04), (0.5, 0.96)), letters, strict=False):
        text = ax.text(x, y, letter, transform=ax.transAxes, color="white", fontsize=12, ha="center", va="center")
        text.set(weight="bold", path_effects=[withStroke(linewidth=2, foreground="black")])  # seen on white tissue


# ---------------------------------------------------------------------- patches
def _draw_patches(figure: SubFigure, scan: OpenScan, view: View, name: str, patch_mm: float, unit: str) -> None:
    low, high = scan.stats.lowest, scan.stats.median + 4 * scan.stats.std
    whole = dataclasses.replace(view, window_center=(low + high) / 2, window_width=high - low)
    axes: Sequence[Axes] = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.01, right=0.98, top=0.9, bottom=0.05, wspace=0.05)
    titles = [
        f"{what}\n{view_window_in_words(shown, unit)}"
        for what, shown in (("before the window", whole), ("as seen", view))
    ]
    for ax, shown, title in zip(axes, (whole, view), titles, strict=True):
        ax.imshow(_mosaic(scan, shown, patch_mm), cmap="gray", vmin=-1, vmax=1, origin="lower")
        ax.set_title(title, color=_COLORS[name], fontsize=10)
        ax.set_facecolor("#111111")
        ax.set_xticks([])
        ax.set_yticks([])
    visibility = measure_visibility(scan, view, patch_mm)
    color = _NOTHING_COLOR if visibility.bits else "#bbbbbb"
    words = visibility_in_words(visibility)
    axes[1].text(1.0, -0.015, words, color=color, fontsize=10, ha="right", va="top", transform=axes[1].transAxes)


def _mosaic(scan: OpenScan, view: View, patch_mm: float) -> Float32:
    """The patches nearest to the centre, flipped like the slices; gaps are NaN."""
    n = _PATCHES_PER_SIDE
    nearest = np.argsort(np.linalg.norm(view.positions_mm, axis=1))[: n * n]
    some = dataclasses.replace(view, positions_mm=np.ascontiguousarray(view.positions_mm[nearest]))
    fixed = np.empty((len(nearest), PATCH_PX, PATCH_PX), np.int16)
    extract_view(scan, some, patch_mm, fixed)
    tile = PATCH_PX + 1
    mosaic = np.full((n * tile - 1, n * tile - 1), np.nan, np.float32)
    for place, patch in enumerate(fixed):
        row, column = (n - 1 - place // n) * tile, (place % n) * tile
        mosaic[row : row + PATCH_PX, column : column + PATCH_PX] = patch[:, ::-1].astype(np.float32) / PATCH_SCALE
    return mosaic
