"""Prepare the scans of a run: catalogue, preflight, split by patient, shards."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan
from prism_ssl.data.catalog import CatalogReport, Selection, load_records
from prism_ssl.data.checks import Quarantine
from prism_ssl.data.holdout import Split, listed_patients, split_by_patient
from prism_ssl.data.phantoms import phantom_folder, write_phantoms
from prism_ssl.data.pool import with_other_series
from prism_ssl.data.preflight import PreflightReport, PreflightResult, run_preflight
from prism_ssl.data.sharded_dataset import make_shards
from prism_ssl.errors import CatalogError
from prism_ssl.utils.hashing import content_hash, short_id

QUARANTINE_FILE = "quarantine.jsonl"


@dataclass(frozen=True)
class SelectedScans:
    """A catalogue and what was selected from it."""

    catalog: Path
    selection: Selection


@dataclass(frozen=True)
class Archive:
    """The scans of a run. ``held_out`` (the probe set) shares no patient with ``shards``."""

    catalog: Path
    preflight_dir: Path
    shards: list[list[PreparedScan]]
    held_out: list[PreparedScan]
    selection: CatalogReport
    preflight: PreflightReport
    repeated: int = 0
    """Scans that are not trained on, because a held-out scan has the same voxels."""

    @property
    def split(self) -> Split:
        """The patients to train on and the held-out patients."""
        return Split.of(
            (scan.record for scan in itertools.chain(*self.shards)), (scan.record for scan in self.held_out)
        )

    def under(self, earlier: Split, config: PrismConfig) -> Archive:
        """The same scans, with each patient on the same side as in an ``earlier`` split.

        Raises:
            BatchDoesNotFit: too few training scans are left for the workers.
        """
        scans = [*itertools.chain(*self.shards), *self.held_out]
        train, held_out = _divided(scans, config, earlier)
        repeated = self.repeated + len(scans) - len(train) - len(held_out)
        shards = make_shards(train, config.data.workers)
        return dataclasses.replace(self, shards=shards, held_out=held_out, repeated=repeated)

    @property
    def quarantine_file(self) -> Path:
        """File that lists scans that failed at run time, for the next preflight."""
        return self.preflight_dir / QUARANTINE_FILE

    def counts(self) -> dict[str, float]:
        """Counts of the catalogue's rows by outcome, for the summary."""
        counts = {
            "catalog_rows": self.selection.rows,
            "scans_selected": self.selection.selected,
            "scans_kept": self.preflight.kept,
            "scans_rejected": self.preflight.rejected,
            "scans_training": sum(len(shard) for shard in self.shards),
            "scans_held_out": len(self.held_out),
            "scans_same_as_held_out": self.repeated,
        }
        counts |= {f"left_out/{reason}": count for reason, count in self.selection.left_out().items()}
        counts |= {f"rejected/{reason}": count for reason, count in self.preflight.reasons.items()}
        return {name: float(count) for name, count in counts.items()}


def manifest_hash(training: Iterable[PreparedScan], held_out: Iterable[PreparedScan]) -> str:
    """Hash of a run's data: equal if the same scans, with the same shapes and intensities, are trained on and held out,
    whatever their order and paths."""

    def told(scans: Iterable[PreparedScan]) -> list[list[Any]]:
        return sorted([scan.record.scan_id, scan.shape, dataclasses.astuple(scan.stats)] for scan in scans)

    return content_hash({"training": told(training), "held_out": told(held_out)})


def select_scans(config: PrismConfig, tmp_root: Path) -> SelectedScans:
    """Select this run's scans; without a catalogue in the config, generate phantoms. Needs no Ray.

    Raises:
        CatalogError: the catalogue cannot be used, or leaves no scan.
    """
    given = config.data.catalog_path
    path = Path(given).expanduser().absolute() if given else _phantoms(config, tmp_root)
    return SelectedScans(
        path, load_records(dataclasses.replace(config.data, catalog_path=str(path)), config.data.selection_seed)
    )


def scan_verdicts(selected: SelectedScans, config: PrismConfig, cache_root: Path) -> PreflightResult:
    """Preflight of the selected scans. Needs Ray.

    The verdicts are kept under ``cache_root``, a folder per catalogue, so that the next run reads only files that
    changed.
    """
    selection, folder = selected.selection, preflight_dir(selected.catalog, cache_root)
    quarantine = Quarantine(folder / QUARANTINE_FILE)
    return run_preflight(selection.records, selection.unresolved, config, folder, quarantine, catalog=selection.report)


def require_usable_scans(selected: SelectedScans, preflight: PreflightResult, cache_root: Path) -> None:
    """Raises ``CatalogError`` when no scan passed."""
    if not preflight.kept:
        reasons = ", ".join(f"{reason} {count}" for reason, count in preflight.report.reasons.items())
        raise CatalogError(
            f"none of the {preflight.report.rejected} selected scans of {selected.catalog} passed preflight "
            f"({reasons}); details are in {preflight_dir(selected.catalog, cache_root)}"
        )


def check_scans(selected: SelectedScans, config: PrismConfig, cache_root: Path) -> PreflightResult:
    """As ``scan_verdicts``; raises ``CatalogError`` when no scan passes."""
    preflight = scan_verdicts(selected, config, cache_root)
    require_usable_scans(selected, preflight, cache_root)
    return preflight


def prepare_archive(
    selected: SelectedScans, config: PrismConfig, cache_root: Path, earlier: Split | None = None
) -> Archive:
    """Check and split the selected scans, see ``check_scans``. Needs Ray.

    Patients of an ``earlier`` split stay on their side.

    Raises:
        CatalogError: no scan passes preflight, or the list of held-out patients cannot be used.
        BatchDoesNotFit: too few scans for the workers.
    """
    _listed(config, earlier)  # a wrong list is told before the files are checked
    return divided_archive(selected, check_scans(selected, config, cache_root), config, cache_root, earlier)


def divided_archive(
    selected: SelectedScans,
    preflight: PreflightResult,
    config: PrismConfig,
    cache_root: Path,
    earlier: Split | None = None,
) -> Archive:
    """The scans that passed, split by patient as in ``prepare_archive``, and with its errors."""
    train, held_out = _divided(preflight.kept, config, earlier)
    shards = make_shards(train, config.data.workers)
    return Archive(
        catalog=selected.catalog,
        preflight_dir=preflight_dir(selected.catalog, cache_root),
        shards=shards,
        held_out=held_out,
        selection=selected.selection.report,
        preflight=preflight.report,
        repeated=len(preflight.kept) - len(train) - len(held_out),
    )


def _divided(
    scans: list[PreparedScan], config: PrismConfig, earlier: Split | None = None
) -> tuple[list[PreparedScan], list[PreparedScan]]:
    """(training, held-out) scans by patient; training scans with the voxels of a held-out scan are left out.

    Raises:
        CatalogError: ``data.holdout_file`` cannot be read, or names no patient of these scans.
    """
    train, held_out = split_by_patient(
        scans,
        config.data.holdout_fraction,
        config.data.holdout_min_series,
        config.data.selection_seed,
        subject_of=lambda scan: scan.record.subject_id,
        earlier=earlier,
        listed=_listed(config, earlier),
    )
    if config.data.holdout_file and not held_out and earlier is None:
        raise CatalogError(
            f"none of the patients in data.holdout_file {config.data.holdout_file} is among the {len(scans)} scans; "
            "needed: ids as in the catalogue's column of patients (pmbb_id)"
        )
    known = {scan.content for scan in held_out if scan.content}
    train = [scan for scan in train if scan.content not in known]
    return (with_other_series(train) if config.view.other_series_share else train), held_out


def _listed(config: PrismConfig, earlier: Split | None) -> set[str] | None:
    """Patients of ``data.holdout_file``; None without one. Once there is a split, the list may be gone."""
    if config.data.holdout_file is None:
        return None
    try:
        return listed_patients(Path(config.data.holdout_file))
    except CatalogError:
        if earlier is None:
            raise
        return set()


def preflight_dir(catalog: Path, cache_root: Path) -> Path:
    """Preflight's folder for a catalogue, the same for every path that leads to it."""
    spelt, one = (cache_root / short_id(str(path)) for path in (catalog.absolute(), catalog.resolve()))
    # Earlier versions used the path as given; their verdicts on 10^5 files, and their quarantine, are kept.
    return spelt if spelt.exists() and not one.exists() else one


def _phantoms(config: PrismConfig, tmp_root: Path) -> Path:
    subjects, seed = config.data.phantom_subjects, config.data.selection_seed
    return write_phantoms(phantom_folder(tmp_root, subjects, seed), subjects, seed)
