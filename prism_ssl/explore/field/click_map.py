"""A map of a field to click on: three planes through a scan, with the cells of its field over them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from matplotlib.image import imsave

from prism_ssl.contracts import Float64
from prism_ssl.explore.field.picture import place_in_words
from prism_ssl.explore.field.shown_scan import ShownScan
from prism_ssl.inspect.view_panel import PLANES, Plane, bounding_box_mm, gray_range, slice_mm

WIDTH_PX = 660
"""Of the whole map: it fits into a narrow window."""
_GAP_PX, _CELLS_A_SIDE = 6, 64
_CELL_OPACITY = 0.55


@dataclass(frozen=True)
class _Tile:
    """Where a plane lies in the map: pixels from its left edge, and the size; upwards from the lower edge."""

    plane: Plane
    left_px: float
    width_px: float
    height_px: float


def click_map(shown: ShownScan, place_mm: Float64, rgb: Float64) -> alt.LayerChart:
    """Axial, coronal and sagittal plane through a RAS place [3]; ``rgb`` [M, 3] in [0, 1] colours the field's points.

    In radiological convention. A click selects a cell by the ``row`` of its point in the field.
    """
    box = bounding_box_mm(shown.scan)
    sides = box[1] - box[0]
    px_per_mm = (WIDTH_PX - _GAP_PX * (len(PLANES) - 1)) / sum(sides[plane.across] for plane in PLANES)
    tiles, left = list[_Tile](), 0.0
    for plane in PLANES:
        tiles.append(_Tile(plane, left, px_per_mm * sides[plane.across], px_per_mm * sides[plane.up]))
        left += tiles[-1].width_px + _GAP_PX
    height = max(tile.height_px for tile in tiles)

    def along(name: str, most: float) -> dict[str, Any]:
        return {"shorthand": f"{name}:Q", "axis": None, "scale": alt.Scale(domain=[0, most], nice=False, zero=False)}

    cells = (
        alt.Chart()
        .mark_rect(opacity=_CELL_OPACITY, cursor="crosshair")
        .encode(
            x=alt.X(**along("x", WIDTH_PX)),
            x2="x2:Q",
            y=alt.Y(**along("y", height)),
            y2="y2:Q",
            color=alt.Color("color:N", scale=None),
            tooltip=["point:N"],
        )
        .add_params(alt.selection_point(name="cell", fields=["row"], toggle=False))
    )
    slices = [_slice(shown, place_mm, box, tile, height) for tile in tiles]
    table = pl.concat([_cells(shown, place_mm, rgb, box, tile) for tile in tiles])
    chart: alt.LayerChart = alt.LayerChart(layer=[*slices, cells], data=table, width=WIDTH_PX, height=height)
    shown_chart: alt.LayerChart = chart.configure_view(stroke=None, fill="#111111")
    return shown_chart


def clicked_place(selected: pl.DataFrame, shown: ShownScan) -> list[float] | None:
    """The RAS place [3] of the point whose cell is selected; None where none is."""
    if not len(selected):
        return None
    place: list[float] = shown.field.points_mm[int(selected["row"][-1])].tolist()
    return place


def _slice(shown: ShownScan, place_mm: Float64, box: Float64, tile: _Tile, height_px: float) -> alt.Chart:
    picture = io.BytesIO()
    low, high = gray_range(shown.scan)
    voxels = slice_mm(shown.scan, tile.plane, place_mm, box)
    imsave(picture, voxels, cmap="gray", vmin=low, vmax=high, origin="lower", format="png")
    url = f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
    middle = alt.value(tile.left_px + tile.width_px / 2), alt.value(height_px - tile.height_px / 2)  # from the top
    drawn: alt.Chart = (
        alt.Chart(alt.InlineData(values=[{}]))
        .mark_image(url=url, width=tile.width_px, height=tile.height_px, aspect=False)
        .encode(x=middle[0], y=middle[1])
    )
    return drawn


def _cells(shown: ShownScan, place_mm: Float64, rgb: Float64, box: Float64, tile: _Tile) -> pl.DataFrame:
    """Edges in pixels, colour and point of each cell of the field that a plane goes through, on a square grid."""
    plane, field = tile.plane, shown.field
    sides = box[1] - box[0]
    step_mm = max(np.linalg.norm(field.affine[:3, :3], axis=0).min(), max(sides) / _CELLS_A_SIDE)
    across, up = (np.arange(box[0, axis] + step_mm / 2, box[1, axis], step_mm) for axis in (plane.across, plane.up))
    points = np.empty((len(up), len(across), 3))
    points[:] = place_mm
    points[..., plane.across], points[..., plane.up] = across, up[:, None]
    rows = field.rows_at(points)
    held = rows >= 0
    row, points = rows[held], points[held]
    scale = tile.width_px / sides[plane.across]
    right = points[:, plane.across] - box[0, plane.across]
    x = tile.left_px + scale * (right if plane.across_sign > 0 else sides[plane.across] - right)
    y = scale * (points[:, plane.up] - box[0, plane.up])
    half = scale * step_mm / 2
    colors = (255 * rgb[row]).round().astype(int)
    edges = {"x": x - half, "x2": x + half, "y": y - half, "y2": y + half}
    return pl.DataFrame(
        {name: values.round(1) for name, values in edges.items()}
        | {"color": [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colors]}
        | {"point": [place_in_words(point) for point in field.points_mm[row]], "row": row},
        schema_overrides={"color": pl.String, "point": pl.String, "row": pl.Int64},
    )
