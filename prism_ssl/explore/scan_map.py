"""Embeddings of views of local scans, a 2D map of them, and nearest neighbours."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import altair as alt
import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PATCH_SCALE, Float64, PreparedScan
from prism_ssl.data.archive import preflight_dir, select_scans
from prism_ssl.data.checks import usable_scans
from prism_ssl.errors import CatalogError
from prism_ssl.eval.probe_set import ProbeSet, build_probe_set
from prism_ssl.eval.proxy_metrics import cosine_similarity
from prism_ssl.model.backbone import PrismEncoder
from prism_ssl.report.archive.page import PAGE_FILE
from prism_ssl.utils.fs import temporary_root

Projection = Literal["PCA", "t-SNE"]
COLORS: Final = ("modality", "series", "organ")
"""Colourings of the map; organs are known for phantoms only."""

_UNKNOWN = "not known (not a phantom)"
_BATCH_VIEWS = 32


@dataclass(frozen=True, eq=False)
class EmbeddedViews:
    """V views of S scans and their embeddings [V, D]. ``scans`` are those that opened, in ``probe_set``'s order."""

    scans: list[PreparedScan]
    probe_set: ProbeSet
    embeddings: Float64
    rejected: dict[str, int]

    def in_words(self) -> str:
        """Such as "12 views of 3 scans"."""
        left_out = sum(self.rejected.values()) + len(self.probe_set.left_out)
        refused = f", {left_out} scans refused by preflight's checks" if left_out else ""
        return f"{len(self.probe_set.views)} views of {len(self.scans)} scans{refused}"

    def table(self) -> pl.DataFrame:
        """One row a view: view, scan (short id), modality, series, organ."""
        records = [self.probe_set.scans[scan] for scan in self.probe_set.scan_of_view]
        organs = [place.organ.name.lower().replace("_", " ") if place else _UNKNOWN for place in self.probe_set.places]
        return pl.DataFrame(
            {
                "view": range(len(records)),
                "scan": [record.scan_id for record in records],
                "modality": [record.modality for record in records],
                "series": [record.series_id[:8] for record in records],
                "organ": organs,
            },
            schema_overrides={"view": pl.Int64},
        )


def catalog_of(config: PrismConfig, given: str) -> Path:
    """The catalogue to show: the ``given`` one, else the run's own; the phantoms of a run are generated again.

    Raises:
        CatalogError: neither is there.
    """
    if given.strip():
        return Path(given.strip()).expanduser().absolute()
    return select_scans(config, temporary_root(config.run.tmp_root)).catalog


def page_of(catalog: Path, run_root: str | Path) -> Path | None:
    """The page on an archive that ``prism check`` has put beside the run folders; None where it has not."""
    page = preflight_dir(catalog, Path(run_root).absolute() / ".preflight") / PAGE_FILE
    return page if page.is_file() else None


def embed_scans(encoder: PrismEncoder, config: PrismConfig, catalog: Path, n_scans: int, n_views: int) -> EmbeddedViews:
    """``n_views`` views of each of the first ``n_scans`` usable scans of a catalogue, in its seeded order.

    The views are drawn and cut as the run's settings say. Each scan is checked as preflight does.

    Raises:
        CatalogError: the catalogue cannot be used, or holds no usable scan.
    """
    data = dataclasses.replace(config.data, catalog_path=str(catalog), n_scans=n_scans)
    settings = dataclasses.replace(config.eval, probe_scans=n_scans, views_per_scan=n_views)
    config = dataclasses.replace(config, data=data, eval=settings)
    usable = usable_scans(config)
    probe_set = build_probe_set(usable.scans, config, catalog)
    if not probe_set.scans:
        raise CatalogError(f"none of the {len(usable.scans)} scans of {catalog} opened; look at them with preflight")
    by_id = {scan.record.scan_id: scan for scan in usable.scans}
    scans = [by_id[record.scan_id] for record in probe_set.scans]
    return EmbeddedViews(scans, probe_set, embed_views(encoder, probe_set), usable.rejected)


def embed_views(encoder: PrismEncoder, probe_set: ProbeSet) -> Float64:
    """Embeddings [V, D] of all views."""
    parts = []
    for start in range(0, len(probe_set.views), _BATCH_VIEWS):
        stop = min(start + _BATCH_VIEWS, len(probe_set.views))
        patches = torch.from_numpy(probe_set.patches[start:stop]).float().div_(PATCH_SCALE)[..., None]
        positions = torch.from_numpy(np.stack([view.positions_mm for view in probe_set.views[start:stop]]))
        with torch.inference_mode():
            parts.append(encoder(patches, positions).double())
    return torch.cat(parts).numpy()


def flat_map(embeddings: Float64, method: Projection) -> Float64:
    """The embeddings in the plane, [V, 2]: of standardised dimensions, the same picture every time."""
    std = embeddings.std(axis=0)
    standard = (embeddings - embeddings.mean(axis=0)) / np.where(std > 0, std, 1.0)
    if method == "PCA" or len(standard) < 5:
        plane: Float64 = PCA(2, random_state=0).fit_transform(standard)
        return plane
    perplexity = min(30.0, (len(standard) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(standard)
    return plane.astype(np.float64)


def map_chart(views: pl.DataFrame, plane: Float64, color: str) -> alt.Chart:
    """A point for every view, to be clicked on, coloured by a column of ``EmbeddedViews.table``."""
    shown = views.with_columns(x=pl.Series(plane[:, 0]), y=pl.Series(plane[:, 1]))
    axis = alt.Axis(labels=False, ticks=False, title=None, grid=False)
    title = alt.TitleParams(f"Each point is a view; near points have similar embeddings ({color})", anchor="start")
    many = shown[color].n_unique() > 10
    chart: alt.Chart = (
        alt.Chart(shown)
        .mark_point(filled=True, size=80, opacity=0.85)
        .encode(
            x=alt.X("x:Q", axis=axis, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=axis, scale=alt.Scale(zero=False)),
            color=alt.Color(f"{color}:N", scale=alt.Scale(scheme="tableau20" if many else "tableau10"), title=color),
            tooltip=["scan:N", "view:Q", "modality:N", "series:N", "organ:N"],
        )
        .properties(width=620, height=430, title=title)
    )
    return chart


def most_similar(
    embeddings: Float64, scan_of_view: npt.NDArray[np.int64], query: int, k: int, other_scans: bool
) -> list[tuple[int, float]]:
    """The ``k`` views that are most similar to ``query`` by cosine, best first; without those of its own scan where
    ``other_scans``."""
    similarity = cosine_similarity(embeddings)[query]
    left_out = scan_of_view == scan_of_view[query] if other_scans else np.arange(len(similarity)) == query
    order = np.argsort(-np.where(left_out, -np.inf, similarity), kind="stable")
    return [(int(view), float(similarity[view])) for view in order[: min(k, int((~left_out).sum()))]]
