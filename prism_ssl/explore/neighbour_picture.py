"""Picture of a view and its nearest neighbours, among embedded views or in a table, as slices of their scans."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from prism_ssl.cli.catalog_options import EVERY_SCAN
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float64, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks import open_prepared
from prism_ssl.data.scan import OpenScan, open_scan
from prism_ssl.data.views import View
from prism_ssl.embed.index import has_places
from prism_ssl.embed.search import Match, Query, find
from prism_ssl.explore.scan_map import EmbeddedViews
from prism_ssl.inspect.view_panel import PLANES, Plane, bounding_box_mm, dark_figure, gray_range, slice_mm

_QUERY, _SAME, _OTHER = "#ffb000", "#6fdc6f", "#4cc3ff"


@dataclass(frozen=True, eq=False)
class Column:
    """A scan on three planes through a place [3], with a ball about it, if there is one."""

    head: str
    color: str
    scan: OpenScan
    center_mm: Float64
    radius_mm: float | None


# ---------------------------------------------------------------------- among embedded views
def draw_neighbours(views: EmbeddedViews, query: int, found: Sequence[tuple[int, float]], config: PrismConfig) -> bytes:
    """A PNG: the query view and those found, each on three planes through its centre, with its ball.

    Radiological convention, as in ``view_panel``. Only hashed ids are written into it.
    """
    table = views.table()
    asked = table.row(query, named=True)

    def column(number: int, similarity: float | None) -> Column:
        row, view = table.row(number, named=True), views.probe_set.views[number]
        same = row["series"] == asked["series"]
        organ = "" if row["organ"].startswith("not known") else f"\n{row['organ']}"
        head = "query" if similarity is None else f"similarity {similarity:.3f}"
        head += "" if similarity is None or not same else ", same series"
        color = _QUERY if similarity is None else _SAME if same else _OTHER
        scan = open_prepared(views.scans[int(views.probe_set.scan_of_view[number])], config)
        return Column(
            f"{head}\n{row['modality']} {row['scan'][:8]}{organ}", color, scan, view.center_mm, view.radius_mm
        )

    return _png((column(*shown) for shown in [(query, None), *found]), 1 + len(found))


# ---------------------------------------------------------------------- in a table
@dataclass(frozen=True, eq=False)
class TableNeighbours:
    """What a table holds that is most similar to a view: the matches, and what stands for the view there."""

    matches: list[Match]
    in_words: str


def find_in_table(where: str, record: ScanRecord, view: View, k: int, other_patients: bool) -> TableNeighbours:
    """Ask a table of ``prism embed``, or points or fields of ``prism field``, for what is most similar to a view.

    The table's own vector stands for the view: that of its scan, or, where the table holds places, the one closest to
    the view's centre. Raises ``ConfigError`` where there is none.
    """
    index = Path(where.strip()).expanduser()
    if not has_places(index):
        matches, _ = find(index, Query(record.scan_id, None), k, other_patients)
        return TableNeighbours(matches, "The table's vector of the whole scan stands for the view.")
    x, y, z = view.center_mm.tolist()
    matches, gap_mm = find(index, Query(record.scan_id, (x, y, z)), k, other_patients)
    return TableNeighbours(matches, f"The vector that stands for the view lies {gap_mm:.1f} mm from its centre.")


def records_by_id(config: PrismConfig, catalog: Path) -> dict[str, ScanRecord]:
    """Scan id -> record, of all scans of a catalogue; raises ``CatalogError`` where it cannot be used."""
    data = dataclasses.replace(config.data, catalog_path=str(catalog), n_scans=EVERY_SCAN)
    return {record.scan_id: record for record in load_records(data, data.selection_seed).records}


def matches_table(matches: Sequence[Match], records: Mapping[str, ScanRecord]) -> pl.DataFrame:
    """A row a match: cosine, scan, patient, modality, place, and whether the catalogue has its scan."""
    rows = [
        (
            round(match.cosine, 4),
            match.scan_id,
            match.subject_id,
            match.modality,
            "whole scan" if np.isnan(match.x_mm) else f"{match.x_mm:.0f}, {match.y_mm:.0f}, {match.z_mm:.0f}",
            "yes" if match.scan_id in records else "no: not drawn",
        )
        for match in matches
    ]
    names = ["cosine", "scan", "patient", "modality", "place (RAS mm)", "in the catalogue"]
    return pl.DataFrame(rows, schema=names, orient="row")


def draw_matches(record: ScanRecord, view: View, found: TableNeighbours, records: Mapping[str, ScanRecord]) -> bytes:
    """A PNG: the view and the matches whose scans the catalogue has, as in ``draw_neighbours``.

    Whole scans are cut through their middle. Raises ``ScanRejected`` for a scan that cannot be opened.
    """
    drawn = [match for match in found.matches if match.scan_id in records]

    def columns() -> Iterable[Column]:
        name = f"{record.modality} {record.scan_id[:8]}"
        yield Column(f"query\n{name}", _QUERY, _opened(record), view.center_mm, view.radius_mm)
        for match in drawn:
            scan, same = _opened(records[match.scan_id]), match.subject_id == record.subject_id
            head = f"cosine {match.cosine:.3f}{', same patient' if same else ''}\n{match.modality} {match.scan_id[:8]}"
            place = np.array([match.x_mm, match.y_mm, match.z_mm])
            whole = bool(np.isnan(place).any())
            at, radius = (bounding_box_mm(scan).mean(axis=0), None) if whole else (place, view.radius_mm)
            yield Column(head, _SAME if same else _OTHER, scan, at, radius)

    return _png(columns(), 1 + len(drawn))


def _opened(record: ScanRecord) -> OpenScan:
    return open_scan(Path(record.nifti_path))


# ---------------------------------------------------------------------- drawing
def _png(columns: Iterable[Column], count: int) -> bytes:
    figure = dark_figure(2.35 * max(count, 3), 7.6)
    grid = figure.subplots(len(PLANES), max(count, 3), squeeze=False)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.9, bottom=0.01, wspace=0.03, hspace=0.04)
    for ax in grid.flat:
        ax.set_axis_off()
    for column, axes in zip(columns, grid.T, strict=False):
        axes[0].set_title(column.head, color=column.color, fontsize=10)
        for plane, ax in zip(PLANES, axes, strict=True):
            _draw(ax, column, plane)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", facecolor=figure.get_facecolor())
    return picture.getvalue()


def _draw(ax: Axes, column: Column, plane: Plane) -> None:
    box = bounding_box_mm(column.scan)
    low, high = gray_range(column.scan)
    image = slice_mm(column.scan, plane, column.center_mm, box)
    extent = (*box[:: plane.across_sign, plane.across], *box[:, plane.up])
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, aspect="equal")
    if column.radius_mm is not None:
        center = (float(column.center_mm[plane.across]), float(column.center_mm[plane.up]))
        ax.add_patch(Circle(center, column.radius_mm, fill=False, edgecolor=column.color, linewidth=1.6))
