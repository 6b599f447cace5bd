"""Picture of a view and its nearest neighbours by embedding, as slices of their scans."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Circle

from prism_ssl.config.schema import PrismConfig
from prism_ssl.data.checks import open_prepared
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views import View
from prism_ssl.explore.scan_map import EmbeddedViews
from prism_ssl.inspect.view_panel import PLANES, Plane, bounding_box_mm, dark_figure, gray_range, slice_mm

_QUERY, _SAME_SERIES, _OTHER = "#ffb000", "#6fdc6f", "#4cc3ff"


def draw_neighbours(views: EmbeddedViews, query: int, found: Sequence[tuple[int, float]], config: PrismConfig) -> bytes:
    """A PNG: the query view and those found, each on three planes through its centre, with its ball.

    Radiological convention, as in ``view_panel``. Only hashed ids are written into it.
    """
    shown = [(query, None), *found]
    figure = dark_figure(2.35 * len(shown), 7.6)
    axes = figure.subplots(len(PLANES), len(shown), squeeze=False)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.01, wspace=0.03, hspace=0.04)
    table = views.table()
    asked = table.row(query, named=True)
    for column, (number, similarity) in enumerate(shown):
        row = table.row(number, named=True)
        scan = open_prepared(views.scans[int(views.probe_set.scan_of_view[number])], config)
        same = row["series"] == asked["series"]
        color = _QUERY if similarity is None else _SAME_SERIES if same else _OTHER
        organ = "" if row["organ"].startswith("not known") else f"\n{row['organ']}"
        head = "query" if similarity is None else f"similarity {similarity:.3f}"
        head += "" if similarity is None or not same else ", same series"
        axes[0, column].set_title(f"{head}\n{row['modality']} {row['scan'][:8]}{organ}", color=color, fontsize=10)
        for plane, ax in zip(PLANES, axes[:, column], strict=True):
            _draw(ax, scan, plane, views.probe_set.views[number], color)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor=figure.get_facecolor())
    return picture.getvalue()


def _draw(ax: Axes, scan: OpenScan, plane: Plane, view: View, color: str) -> None:
    box = bounding_box_mm(scan)
    low, high = gray_range(scan)
    image = slice_mm(scan, plane, view.center_mm, box)
    extent = (*box[:: plane.across_sign, plane.across], *box[:, plane.up])
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, aspect="equal")
    center = (float(view.center_mm[plane.across]), float(view.center_mm[plane.up]))
    ax.add_patch(Circle(center, view.radius_mm, fill=False, edgecolor=color, linewidth=1.6))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_facecolor("#111111")
    for side in ax.spines.values():
        side.set_visible(False)
