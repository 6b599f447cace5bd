"""A field in memory: which point stands for a place, whatever the lattice's axes are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prism_ssl.embed.field.job import write_field
from prism_ssl.embed.field.lattice import lattice_over
from prism_ssl.embed.field.places import Places
from prism_ssl.embed.field.scan_field import field_file, read_field
from tests.unit.embed.field.test_lattice import SCANS


@pytest.mark.parametrize("name", SCANS)
def test_every_place_of_a_cell_stands_for_its_point(name: str, tmp_path: Path) -> None:
    rng, lattice = np.random.default_rng(0), lattice_over(*SCANS[name], 8.0)
    flat = np.sort(rng.permutation(np.prod(lattice.shape))[:200])
    places, vectors = Places(lattice.points_mm(flat), lattice, flat), rng.normal(size=(200, 5)).astype(np.float32)
    write_field(field_file(tmp_path, "scan"), places, vectors)
    field = read_field(field_file(tmp_path, "scan"))
    order = np.lexsort(field.index.T)  # the file's reader runs through k fastest, a lattice through i
    assert np.array_equal(field.points_mm[order], places.points_mm)
    assert np.array_equal(field.vectors[order], vectors)
    within = field.points_mm + rng.uniform(-0.49, 0.49, (200, 3)) @ lattice.affine[:3, :3].T
    assert np.array_equal(field.rows_at(within.reshape(2, 100, 3)).ravel(), np.arange(200))
    empty = np.setdiff1d(np.arange(np.prod(lattice.shape)), flat)
    assert (field.rows_at(lattice.points_mm(empty)) == -1).all()
    assert field.rows_at(np.array([1e6, 0.0, 0.0])) == -1
    assert [field.closest(place) for place in field.points_mm[:5] + 0.1] == list(range(5))
