"""A click on the map of a field chooses the point that is shown there."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from prism_ssl.explore.field.click_map import WIDTH_PX, click_map, clicked_place
from prism_ssl.inspect.view_panel import PLANES, bounding_box_mm
from tests.unit.explore.field.test_picture import place_of, row_of, shown


@pytest.mark.parametrize("name", ["plain", "thick slices", "oblique"])
def test_every_cell_lies_where_its_point_is(name: str) -> None:
    one = shown(name)
    chart = click_map(one, one.middle_mm, row_of(one).rgb)
    cells = chart.data
    assert isinstance(cells, pl.DataFrame)
    box, gap = bounding_box_mm(one.scan), 6
    sides = box[1] - box[0]
    scale = (WIDTH_PX - 2 * gap) / (2 * sides[0] + sides[1])
    reach = np.abs(one.field.affine[:3, :3]).sum(axis=1)  # half a cell of the lattice, and half of the map
    points, left, seen = one.field.points_mm[cells["row"]], 0.0, 0
    x, y = ((cells[axis] + cells[f"{axis}2"]).to_numpy() / 2 for axis in "xy")
    for plane in PLANES:
        right = left + scale * sides[plane.across]
        here = (x > left) & (x < right)
        from_left = (x[here] - left) / scale
        across = box[0, plane.across] + from_left if plane.across_sign > 0 else box[1, plane.across] - from_left
        assert np.abs(points[here, plane.across] - across).max() < reach[plane.across]
        assert np.abs(points[here, plane.up] - (box[0, plane.up] + y[here] / scale)).max() < reach[plane.up]
        left, seen = right + gap, seen + int(here.sum())
    assert seen == len(cells) > 50
    rgb = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in cells["color"]]) / 255
    np.testing.assert_allclose(place_of(rgb, one), points, atol=np.ptp(one.field.points_mm, axis=0).max() / 200)


def test_the_selected_cell_is_a_place() -> None:
    one = shown("oblique")
    chart = click_map(one, one.middle_mm, row_of(one).rgb)
    (param,) = chart.to_dict()["params"]
    assert param["select"] == {"type": "point", "fields": ["row"], "toggle": False}
    table = chart.data
    assert isinstance(table, pl.DataFrame)
    assert clicked_place(table.head(0), one) is None
    row = table["row"][7]
    assert clicked_place(table.filter(pl.col("row") == row), one) == one.field.points_mm[row].tolist()
