"""Similarity of the vectors of fields: colours of one basis, and the point most similar to another (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prism_ssl.contracts import Float64
from prism_ssl.embed.field.scan_field import ScanField
from prism_ssl.eval.proxy_metrics import cross_similarity

_ENDS = (1.0, 99.0)  # percentiles of a component that are the ends of its colour
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class Colours:
    """RGB in [0, 1] of the points of each field, [M, 3] each, and the ``share`` [3] of the variance that each shows."""

    rgb: list[Float64]
    share: Float64


@dataclass(frozen=True)
class Found:
    """The point of a field that is most similar to a query, as its ``row``, and its ``similarity``.

    ``off_mm`` is its distance from the true place and ``similarity_there`` that of the point closest to it; None where
    the true place is not known.
    """

    row: int
    similarity: float
    off_mm: float | None
    similarity_there: float | None


def common_colours(fields: Sequence[ScanField]) -> Colours:
    """The first three principal components of all fields' unit vectors as red, green and blue.

    One basis and one range serve all fields, in which each field counts alike; so equal colours stand for similar
    vectors, also in different fields.
    """
    unit = [_unit(field) for field in fields]
    mean = np.mean([vectors.mean(axis=0) for vectors in unit], axis=0)
    scatter = np.mean([(vectors - mean).T @ (vectors - mean) / len(vectors) for vectors in unit], axis=0)
    values, axes = np.linalg.eigh(scatter)
    axes = axes[:, :-4:-1]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])  # an axis and its opposite are one
    parts = [(vectors - mean) @ axes for vectors in unit]
    low = np.min([np.percentile(part, _ENDS[0], axis=0) for part in parts], axis=0)
    high = np.max([np.percentile(part, _ENDS[1], axis=0) for part in parts], axis=0)
    rgb = [np.clip((part - low) / np.maximum(high - low, _SMALLEST), 0.0, 1.0) for part in parts]
    return Colours(rgb, values[:-4:-1] / max(float(values.sum()), _SMALLEST))


def similarity_to(asked: ScanField, row: int, field: ScanField) -> Float64:
    """Cosine [M] of the vector in a row of ``asked`` with all of ``field``."""
    similarity: Float64 = cross_similarity(asked.vectors[[row]].astype(float), field.vectors.astype(float))[0]
    return similarity


def most_similar(similarity: Float64, field: ScanField, true_mm: Float64 | None) -> Found:
    """The most similar point; ``true_mm`` [3] is the RAS place at which it should be, if that is known."""
    row = int(similarity.argmax())
    if true_mm is None:
        return Found(row, float(similarity[row]), None, None)
    off_mm = float(np.linalg.norm(field.points_mm[row] - true_mm))
    return Found(row, float(similarity[row]), off_mm, float(similarity[field.closest(true_mm)]))


def _unit(field: ScanField) -> Float64:
    vectors = field.vectors.astype(float)
    unit: Float64 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST)
    return unit
