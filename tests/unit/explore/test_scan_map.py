"""What the notebooks show of scans: checkpoints, neighbours, moved views, refused files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from prism_ssl.config.defaults import apply_overrides, phantom_cpu
from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import PreparedScan, RunSummary
from prism_ssl.data.checks.catalog_scans import open_prepared
from prism_ssl.data.scan.nifti import OpenScan
from prism_ssl.errors import CheckpointError, ConfigError, RunFolderError
from prism_ssl.explore.checked_scans import checked_scans, reasons_of, scan_names
from prism_ssl.explore.inspected import inspected
from prism_ssl.explore.moved_pair import Move, asked_of_the_heads, drawn_pair, moved, share_outside, window_chart
from prism_ssl.explore.neighbour_picture import draw_neighbours
from prism_ssl.explore.scan_map import EmbeddedViews, embed_scans, flat_map, map_chart, most_similar
from prism_ssl.explore.trained_encoder import load_trained
from prism_ssl.model.export import save_encoder
from prism_ssl.records.run_files import write_json
from prism_ssl.train.checkpoint import Checkpoint, rng_state, save_checkpoint
from prism_ssl.train.learner import Learner
from prism_ssl.train.logging import start_tracker
from prism_ssl.train.tracking.identity import read_tracked_as
from tests.support.broken_files import BrokenKind, sound_bytes, write_broken
from tests.support.probe_sets import small
from tests.support.wandb_server import WandbServer


def write_checkpointed(folder: Path, config: PrismConfig) -> Learner:
    """A run folder with settings and a checkpoint of untrained weights."""
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    learner = Learner(config, torch.device("cpu"))
    write_json(folder / "config.json", config.to_dict())
    save_checkpoint(folder, Checkpoint(40, learner.state(), [], rng_state(), "x"))
    return learner


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# ---------------------------------------------------------------------- checkpoints
def test_a_local_checkpoint_gives_its_encoder(tmp_path: Path) -> None:
    learner = write_checkpointed(tmp_path / "run", small())
    trained = load_trained(str(tmp_path / "run"))
    assert same_weights(trained.encoder, learner.network.encoder)
    assert trained.origin == "last.ckpt, step 40"
    assert not trained.encoder.training


def test_without_a_checkpoint_the_exported_weights_do(tmp_path: Path) -> None:
    learner = write_checkpointed(tmp_path / "run", small())
    (tmp_path / "run" / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"run run has neither last\.ckpt nor encoder\.safetensors"):
        load_trained(str(tmp_path / "run"))
    save_encoder(learner.network.encoder, tmp_path / "run", {"preset": "tiny"})
    assert same_weights(load_trained(str(tmp_path / "run")).encoder, learner.network.encoder)
    with pytest.raises(RunFolderError, match=r"config\.json cannot be read"):
        load_trained(str(tmp_path))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    config = small()
    write_checkpointed(tmp_path / "run", config)
    write_json(tmp_path / "run" / "config.json", apply_overrides(config, {"model.preset": "small"}).to_dict())
    with pytest.raises(CheckpointError, match="is not of a 'small' network"):
        load_trained(str(tmp_path / "run"))


def test_the_artifact_of_a_tracked_run_gives_its_encoder(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism_ssl.explore.trained_encoder.temporary_root", lambda: tmp_path / "cache")
    placed = {"tracking.mode": "online", "tracking.artifact_every": 40, "run.tmp_root": str(tmp_path)}
    config = apply_overrides(small(), placed | {"data.phantom_subjects": 0, "data.catalog_path": "elsewhere.csv"})
    run_dir = tmp_path / "runs" / "run"
    learner = write_checkpointed(run_dir, config)
    tracker = start_tracker(config, run_dir, 0)
    tracker.checkpoint(run_dir / "last.ckpt", 40)
    tracker.finish(RunSummary("run", "interrupted", None, 40, 100, None, str(run_dir)))
    tracked = read_tracked_as(run_dir)
    assert tracked is not None
    trained = load_trained(tracked.path)
    assert same_weights(trained.encoder, learner.network.encoder)
    assert trained.origin.endswith(":latest, step 40")
    assert trained.config.data.n_patches == config.data.n_patches


# ---------------------------------------------------------------------- embeddings
@pytest.fixture(scope="module")
def views(phantom_catalog: Path) -> EmbeddedViews:
    torch.manual_seed(0)
    encoder = Learner(small(), torch.device("cpu")).network.encoder.eval()
    return embed_scans(encoder, small(), phantom_catalog, n_scans=4, n_views=4)


def test_every_view_of_every_scan_is_embedded(views: EmbeddedViews) -> None:
    table = views.table()
    assert views.embeddings.shape == (16, 128)
    assert table["scan"].to_list()[::4] == [scan.record.scan_id for scan in views.scans]
    assert not table["organ"].str.starts_with("not known").any()
    for method in ("PCA", "t-SNE"):
        plane = flat_map(views.embeddings, method)
        assert plane.shape == (16, 2)
        assert np.isfinite(plane).all()
    for color in ("modality", "series", "organ"):
        assert color in map_chart(table, plane, color).to_json()


def test_the_most_similar_view_is_found_and_its_own_scan_can_be_left_out() -> None:
    embeddings = np.array([[1.0, 0], [0.99, 0.1], [0.8, 0.6], [0.0, 1], [-1.0, 0]])
    scan_of_view = np.array([0, 0, 1, 1, 2])
    assert [view for view, _ in most_similar(embeddings, scan_of_view, 0, 3, other_scans=False)] == [1, 2, 3]
    found = most_similar(embeddings, scan_of_view, 0, 9, other_scans=True)
    assert [view for view, _ in found] == [2, 3, 4]
    assert [similarity for _, similarity in found] == pytest.approx([0.8, 0.0, -1.0])


def test_neighbours_are_drawn_without_a_path_or_a_name(views: EmbeddedViews) -> None:
    picture = draw_neighbours(
        views, 2, most_similar(views.embeddings, views.probe_set.scan_of_view, 2, 3, True), small()
    )
    assert picture.startswith(b"\x89PNG")
    for private in (b"PH0", b"subjects", views.scans[0].record.nifti_path.encode()):
        assert private not in picture


# ---------------------------------------------------------------------- views moved by hand
@pytest.fixture(scope="module")
def prepared(views: EmbeddedViews) -> PreparedScan:
    return views.scans[0]


@pytest.fixture(scope="module")
def scan(prepared: PreparedScan) -> OpenScan:
    return open_prepared(prepared, small())


def test_a_pair_that_nobody_moved_is_the_one_of_training(scan: OpenScan, prepared: PreparedScan) -> None:
    _, drawn = drawn_pair(scan, prepared.record.scan_id, small(), 3)
    same = moved(drawn, Move(), scan.stats)
    for field in dataclasses.fields(drawn):
        np.testing.assert_array_equal(getattr(same, field.name), getattr(drawn, field.name))
    assert share_outside(scan, drawn) == 0.0


def test_targets_follow_the_sliders(scan: OpenScan, prepared: PreparedScan) -> None:
    a, _ = drawn_pair(scan, prepared.record.scan_id, small(), 0)
    move = Move((12.0, 0.0, -3.0), (0.0, 5.0, 0.0), window_shift_std=1.0, window_width_factor=2.0)
    table = asked_of_the_heads((a, moved(a, move, scan.stats)), prepared, small())
    told = {row["axis"]: row for row in table.iter_rows(named=True)}
    assert told["dx"]["b - a"] == pytest.approx(12, abs=0.01)
    assert told["dx"]["regression target"] == pytest.approx(12 / 30, abs=1e-3)
    assert told["ry"]["regression target"] == pytest.approx(0.5)
    assert told["wc"]["regression target"] == pytest.approx(1.0, abs=1e-3)
    assert told["ww"]["b - a"] == pytest.approx(a.window_width, rel=1e-3)
    signs = {axis: row["classification target"] for axis, row in told.items()}
    assert (signs["dx"], signs["ry"], signs["wc"], signs["distance"]) == ("+1", "+1", "+1", "-")
    assert signs["dz"] == signs["dy"] == signs["rx"] == "masked (dead zone)"


def test_a_ball_moved_out_of_its_scan_is_noticed(scan: OpenScan, prepared: PreparedScan) -> None:
    a, _ = drawn_pair(scan, prepared.record.scan_id, small(), 0)
    assert share_outside(scan, moved(a, Move((0.0, 0.0, 5000.0)), scan.stats)) == 1.0
    assert 0.0 < share_outside(scan, moved(a, Move(radius_factor=4.0), scan.stats)) < 1.0


def test_windows_are_drawn_over_the_intensities(scan: OpenScan, prepared: PreparedScan) -> None:
    pair = drawn_pair(scan, prepared.record.scan_id, small(), 0)
    datasets = window_chart(scan, pair, "HU").to_dict()["datasets"].values()
    windows = {row["view"]: row["high"] - row["low"] for rows in datasets for row in rows if "view" in row}
    assert windows == pytest.approx({"a": pair[0].window_width, "b": pair[1].window_width})


# ---------------------------------------------------------------------- refused files
def test_refused_scans_stand_with_their_reason(tmp_path: Path) -> None:
    rows = []
    for kind in (BrokenKind.TRUNCATED_GZIP, BrokenKind.CONSTANT, BrokenKind.THIN):
        write_broken(tmp_path / kind, kind)
        rows.append((f"P-{kind}", "CT", str(kind)))
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "scan.nii").write_bytes(sound_bytes())
    rows += [("P-sound", "CT", "sound"), ("P-gone", "MR", "gone")]
    table = tmp_path / "catalog.csv"
    pl.DataFrame(rows, schema=["pmbb_id", "modality", "series_path"], orient="row").write_csv(table)

    what = inspected("", str(table), 100)
    checked = what.checked
    assert checked.in_words() == "1 scans can be used, 4 refused (read now)"
    assert list(scan_names(checked.usable).values()) == checked.usable
    told = dict(checked.bad.select("reason", "detail").iter_rows())
    assert {"truncated_gzip", "constant_intensity", "too_few_slices"} < set(told)
    assert all(told.values())
    assert reasons_of(checked.bad)["scans"].to_list() == [1] * 4
    assert str(tmp_path) not in str(checked.bad.rows())


def test_columns_of_another_name_are_told_as_everywhere(phantom_catalog: Path, tmp_path: Path) -> None:
    table = phantom_catalog.read_text().replace("pmbb_id", "mrn", 1)
    other = phantom_catalog.with_name("renamed.csv")
    other.write_text(table)
    try:
        assert len(inspected("", str(other), 2, "pmbb_id mrn").checked.usable) == 2
        with pytest.raises(ConfigError, match="needed: pairs"):
            inspected("", str(other), 2, "pmbb_id")
    finally:
        other.unlink()


def test_a_run_is_inspected_with_its_own_settings_and_scans(phantom_catalog: Path, tmp_path: Path) -> None:
    config = apply_overrides(phantom_cpu(), {"data.catalog_path": str(phantom_catalog), "view.radius_mm_max": 22.0})
    write_checkpointed(tmp_path / "runs" / "mine", config)
    what = inspected(str(tmp_path / "runs" / "mine"), "", 3)
    assert (what.where, len(what.checked.usable), what.config.view.radius_mm_max) == ("run mine", 3, 22.0)
    assert checked_scans(what.config).known == 0
