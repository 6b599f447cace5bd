"""Colours mean the same in all fields, and the point that is found is the most similar one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from prism_ssl.contracts import Float64
from prism_ssl.embed.field.scan_field import ScanField
from prism_ssl.explore.field.likeness import common_colours, most_similar, similarity_to

AFFINE = np.diag([8.0, 8.0, 8.0, 1.0])


def field_of(vectors: Float64) -> ScanField:
    """A row of points along x, 8 mm apart."""
    index = np.stack([np.arange(len(vectors)), np.zeros(len(vectors)), np.zeros(len(vectors))], axis=1).astype(int)
    return ScanField(AFFINE, (len(vectors), 1, 1), index, vectors.astype(np.float32))


def random_vectors(seed: int, points: int) -> Float64:
    wide = np.random.default_rng(seed).normal(size=(points, 12)) * np.array([9, 5, 3, *[0.5] * 9])
    unit: Float64 = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def test_the_colours_are_the_principal_components_of_all_fields() -> None:
    a, b = random_vectors(0, 300), random_vectors(1, 300)
    found = common_colours([field_of(a), field_of(7 * b)])  # lengths do not count
    oracle = PCA(3).fit(np.concatenate([a, b]))
    projected = oracle.transform(np.concatenate([a, b]))
    rgb = np.concatenate(found.rgb)
    for axis in range(3):
        free = (rgb[:, axis] > 0) & (rgb[:, axis] < 1)
        assert free.mean() > 0.9
        assert abs(np.corrcoef(rgb[free, axis], projected[free, axis])[0, 1]) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(found.share, oracle.explained_variance_ratio_, rtol=1e-6)


def test_equal_vectors_have_equal_colours_in_fields_of_any_size_and_order() -> None:
    a, b = random_vectors(0, 300), random_vectors(1, 40)
    b[:10] = a[:10]
    one, other = common_colours([field_of(a), field_of(b)]), common_colours([field_of(b), field_of(a)])
    np.testing.assert_allclose(one.rgb[0][:10], one.rgb[1][:10], atol=1e-6)
    assert np.ptp(one.rgb[0][:10], axis=0).min() > 0.1
    np.testing.assert_allclose(one.rgb[1], other.rgb[0], atol=1e-6)


def test_the_most_similar_point_is_found_and_its_distance_from_the_true_place_is_told() -> None:
    a, b = random_vectors(0, 50), random_vectors(1, 40)
    b[33] = a[7]
    asked, field = field_of(a), field_of(3 * b)
    similarity = similarity_to(asked, 7, field)
    found = most_similar(similarity, field, asked.points_mm[7])
    assert found.row == 33
    assert found.similarity == pytest.approx(1.0, abs=1e-6)
    assert found.off_mm == pytest.approx(8.0 * (33 - 7))
    assert found.similarity_there == similarity[7] < 1
    assert most_similar(similarity, field, None).off_mm is None
