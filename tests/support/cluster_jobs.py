"""Preflight, embeddings and fields of one archive, one after another; nodes of the cluster die meanwhile if asked to.

As a program, in the cluster of RAY_ADDRESS: ``python -m tests.support.cluster_jobs CATALOG ENCODER OUT VICTIM...``,
with the ids of the nodes that die: the first in the preflight, the second while scans are embedded, the third in the
fields.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before Ray is imported
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import pytest
import ray

from prism_ssl.config.schema import DataConfig, PrismConfig
from prism_ssl.contracts import Float32, Float64, ScanRecord
from prism_ssl.data.catalog import load_records
from prism_ssl.data.checks import ManifestRow, check_scan
from prism_ssl.data.preflight import run_preflight
from prism_ssl.embed.field import workers
from prism_ssl.embed.field.actor import FieldSettings, PointWorker
from prism_ssl.embed.field.job import embed_points
from prism_ssl.embed.field.places import FieldRequest
from prism_ssl.embed.job import embed_catalog
from prism_ssl.embed.scan import EmbedSettings, Row, cut_views
from prism_ssl.embed.weights import embed_config
from prism_ssl.model.backbone import PRESETS
from prism_ssl.model.export import read_export
from prism_ssl.utils.fs import temporary_root
from prism_ssl.utils.ray_cluster.session import ray_session

STEP_MM = 12.0
FIELDS = 3
"""Scans that get a field: of ``sound.csv`` beside the catalogue, which has no damaged scan to be drawn."""


def run_jobs(catalog: Path, encoder: Path, out: Path, victims: Sequence[str] = ()) -> None:
    """All three into ``out``; ``victims`` as the module says. Needs Ray."""
    out.mkdir(parents=True, exist_ok=True)
    first, second, third = [*victims, "", "", ""][:3]
    exported, _ = read_export(encoder)
    config = embed_config(exported, DataConfig(catalog_path=str(catalog), n_scans=100))
    records = load_records(config.data, config.data.selection_seed).records

    run_preflight(records, [], config, out / "preflight", check=partial(_check, _Witness(out / "checked", first)))
    cut: Any = partial(_cut, _Witness(out / "cut", second))
    embed_catalog(exported, EmbedSettings(config, 2, 7), out / "e.parquet", cut)
    few = replace(config, data=replace(config.data, n_scans=FIELDS, catalog_path=str(catalog.with_name("sound.csv"))))
    width = PRESETS[exported.description["preset"]].width
    (out / "fields").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "PointWorker", _watched(_Witness(out / "encoded", third)))
        table = out / "fields" / "v.parquet"
        embed_points(exported, width, FieldRequest(STEP_MM, 0.5), FieldSettings(few, 0), table, {})


class _Witness:
    """Notes in ``folder`` which node worked on what; the node that is to die dies with the note."""

    def __init__(self, folder: Path, victim: str) -> None:
        self._folder, self._victim = folder, victim
        folder.mkdir(exist_ok=True)

    def note(self, what: str) -> None:
        node = str(ray.get_runtime_context().get_node_id())
        (self._folder / f"{what}@{node}").touch()
        if node == self._victim:
            os.kill(os.getppid(), signal.SIGKILL)  # the raylet, which has started this process
            os.kill(os.getpid(), signal.SIGKILL)  # a process of a node that is lost does not answer either


def _check(witness: _Witness, record: ScanRecord, config: PrismConfig) -> ManifestRow:
    witness.note(record.scan_id)
    return check_scan(record, config)


def _cut(witness: _Witness, record: ScanRecord, settings: EmbedSettings) -> Row:
    witness.note(record.scan_id)
    return cut_views(record, settings)


def _watched(witness: _Witness) -> type[PointWorker]:
    class Watched(PointWorker):
        """Tells the witness of a scan once its first chunk is out."""

        def vectors(self, record: ScanRecord, points_mm: Float64, chunks: Sequence[int]) -> Iterator[Float32]:
            for number, found in enumerate(super().vectors(record, points_mm, chunks)):
                if number == 1:
                    witness.note(record.scan_id)
                yield found

    return Watched


if __name__ == "__main__":
    catalog, encoder, out, *victims = sys.argv[1:]
    with ray_session(1, 2**27, temporary_root()):
        run_jobs(Path(catalog), Path(encoder), Path(out), victims)
