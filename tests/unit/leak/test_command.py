"""The leak check passes on the drawer of training and fails on drawers that give something away."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prism_ssl.config.schema import PrismConfig
from prism_ssl.contracts import Float64, PreparedScan
from prism_ssl.data.checks.catalog_scans import catalog_config, usable_scans
from prism_ssl.leak import pixels
from prism_ssl.leak.checks import Effort, check_answer, check_blanked, check_lattice, check_positions
from prism_ssl.leak.command import leak_findings, main
from prism_ssl.leak.finding import Finding, worst_axis
from prism_ssl.leak.slice_phase import rotation_from_phase_deg
from prism_ssl.leak.views import Drawer, ScanGeometry, entangling_drawer, honest_drawer, rounding_drawer
from prism_ssl.model.backbone import PrismEncoder

SMALL = Effort(
    position_pairs=480, phase_pairs=60, noise_pairs=32, views_per_scan=4, phase_views_per_scan=2, n_patches=64,
    real_patches=64, answer_pairs=96,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(phantom_catalog: Path) -> PrismConfig:
    return catalog_config(str(phantom_catalog), 100)


@pytest.fixture(scope="module")
def scans(config: PrismConfig) -> list[PreparedScan]:
    return usable_scans(config).scans


@pytest.fixture(scope="module")
def geometries(scans: list[PreparedScan]) -> list[ScanGeometry]:
    return [ScanGeometry.of(scan) for scan in scans]


@pytest.fixture(scope="module")
def honest(config: PrismConfig) -> Drawer:
    return honest_drawer(config.view, SMALL.n_patches, SMALL.seed)


def test_training_leaks_nothing_and_every_control_is_caught(scans: list[PreparedScan], config: PrismConfig) -> None:
    findings = list(leak_findings(scans, config, SMALL))
    assert [finding for finding in findings if finding.failed] == []
    assert [finding.verdict for finding in findings if finding.control] == ["caught"] * 3
    level = {finding.reader: finding.value for finding in findings if finding.target == "recall@1"}
    assert level["chance"] < level["modality alone"] < level["spacing alone"]
    ceiling = next(finding for finding in findings if "ceiling" in finding.reader)
    assert ceiling.value > 0.7, "interpolation of pure noise does tell the rotation: the reader must see it"


class PhaseReader(PrismEncoder):
    """An encoder that has learned nothing but the matched filter: its embedding is the rotation read from the phase."""

    def __init__(self, affine: Float64, rotation_max_deg: float) -> None:
        torch.nn.Module.__init__(self)
        self._affine, self._rotation_max_deg = affine, rotation_max_deg

    def forward(self, patches: torch.Tensor, positions_mm: torch.Tensor, return_patches: bool = False) -> torch.Tensor:
        read = []
        for view, where in zip(patches[..., 0].numpy(), positions_mm.numpy(), strict=True):
            energy = np.log(view.var(axis=(1, 2)) + 1e-9).astype(np.float64)
            points = where.astype(np.float64)
            read.append(
                rotation_from_phase_deg(points, energy - energy.mean(), self._affine, self._rotation_max_deg)[0]
            )
        return torch.from_numpy(np.array(read))


def test_the_phase_is_looked_for_with_as_many_patches_as_training_uses(config: PrismConfig) -> None:
    assert Effort().real_patches is None, "fewer would read less of it than an encoder could"
    assert config.data.n_patches == 1024


def test_an_encoder_that_answers_from_the_phase_is_found_out(
    geometries: list[ScanGeometry], config: PrismConfig
) -> None:
    coarse = [scan for scan in geometries if np.linalg.norm(scan.affine[:3, :3], axis=0).max() >= 4][:1]
    reader = PhaseReader(coarse[0].affine, config.view.rotation_max_deg)
    effort = dataclasses.replace(SMALL, real_patches=512, answer_pairs=64)
    (found,) = check_answer(coarse, config, effort, reader)
    assert found.verdict == "LEAK", found
    (untrained,) = check_answer(coarse, config, dataclasses.replace(effort, real_patches=32))
    assert untrained.verdict == "ok", untrained


def test_centres_rounded_to_voxels_are_a_leak(
    geometries: list[ScanGeometry], honest: Drawer, config: PrismConfig
) -> None:
    for finding in check_lattice(geometries, rounding_drawer(honest), config, SMALL):
        assert finding.verdict == "LEAK"
        assert min(finding.per_target) > 0.8


def test_a_ball_tied_to_the_window_is_seen_by_every_reader(
    geometries: list[ScanGeometry], honest: Drawer, config: PrismConfig
) -> None:
    broken = entangling_drawer(honest)
    found = check_positions(geometries, broken, config, SMALL) + check_blanked(geometries, broken, config, SMALL)
    assert {finding.reader: (finding.verdict, finding.target) for finding in found} == dict.fromkeys(
        ("ridge", "trees", "set network", "encoder + ridge"), ("LEAK", "ww")
    )


def test_a_control_that_goes_unseen_fails_the_check() -> None:
    nothing, truth = np.zeros((400, 1)), np.random.default_rng(0).standard_normal((400, 1))
    assert worst_axis("c", "r", ("rx",), nothing, truth, 0.0).verdict == "ok"
    assert worst_axis("c", "r", ("rx",), nothing, truth, 0.0, control=True).failed
    assert worst_axis("c", "r", ("rx",), truth, truth, 0.0).failed
    assert not worst_axis("c", "r", ("rx",), truth, truth, None).failed


def test_recall_of_a_group_counts_its_other_members() -> None:
    series = np.array([0, 0, 1, 1])
    np.testing.assert_allclose(pixels.recall_within_group(np.zeros(4, np.int64), series), 1 / 3)
    np.testing.assert_allclose(pixels.recall_within_group(series, series), 1.0)
    features = np.array([[0.0], [1.0], [1.1], [5.0]])
    np.testing.assert_array_equal(pixels.recall_at_1(features, series), [1, 0, 0, 1])


def test_the_exit_code_tells_a_leak(
    phantom_catalog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leak = Finding("lattice", "plane fit", "rx", 0.9, 0.8, 1.0, 0.0, 100)
    for findings, code in (([leak], 1), ([], 0)):
        monkeypatch.setattr("prism_ssl.leak.command.leak_findings", lambda *_, found=findings, **__: iter(found))
        assert main([str(phantom_catalog), "--json"]) == code
        report = json.loads(capsys.readouterr().out)
        assert report["passed"] is (code == 0)


def test_a_missing_catalogue_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.csv")]) == 2
    assert "none.csv does not exist" in capsys.readouterr().err
