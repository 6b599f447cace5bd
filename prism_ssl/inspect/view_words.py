"""Differences between two views in a radiologist's words."""

from __future__ import annotations

import numpy as np

from prism_ssl.contracts import ScanRecord
from prism_ssl.data.extract import EMPTY, Visibility, kinds_of
from prism_ssl.data.views import View

_DIRECTIONS = (("right of", "left of"), ("in front of", "behind"), ("above", "below"))
"""Along +R and -R, +A and -A, +S and -S, of the patient."""


def unit_of(record: ScanRecord) -> str:
    """Unit of the rescaled values of a scan."""
    return "HU" if record.modality == "CT" else "units"


def view_window_in_words(view: View, unit: str) -> str:
    """The window of one view: what is black, and what is white."""
    low, high = view.window_center - view.window_width / 2, view.window_center + view.window_width / 2
    return f"black {_signed(low)}, white {_signed(high)} {unit}"


def displacement_in_words(a: View, b: View) -> str:
    """Where b lies, seen from a; left and right are the patient's."""
    delta = b.center_mm - a.center_mm
    order = [axis for axis in np.argsort(-np.abs(delta)) if abs(delta[axis]) >= 0.5]
    *parts, last = [f"{abs(delta[axis]):.0f} mm {_DIRECTIONS[axis][int(delta[axis] < 0)]}" for axis in order] or ["on"]
    told = f"{', '.join(parts)} and {last}" if parts else last
    return f"b lies {told} a ({np.linalg.norm(delta):.0f} mm in all)"


def rotation_in_words(a: View, b: View) -> str:
    """Rotation of b relative to a, about the fixed axes of the patient."""
    delta = b.rotation_deg - a.rotation_deg
    return "turned " + ", ".join(f"{deg:+.1f} deg about {axis}" for deg, axis in zip(delta, "RAS", strict=True))


def window_in_words(a: View, b: View, unit: str) -> str:
    """How the window of b differs. A window that lies higher makes the same tissue look darker."""
    center, width = b.window_center - a.window_center, b.window_width - a.window_width
    ratio = max(a.window_width, b.window_width) / min(a.window_width, b.window_width)
    higher = f"{_plain(center)} {unit} {'higher (darker picture)' if center > 0 else 'lower (brighter picture)'}"
    contrast = f"{ratio:.1f} times, {'softer' if width > 0 else 'harder'} contrast"
    return f"window {higher}, {_plain(width)} {unit} {'wider' if width > 0 else 'narrower'} ({contrast})"


def visibility_in_words(visibility: Visibility) -> str:
    """What a view shows, as a training run counts it."""
    share = f"{visibility.saturated_share:.0%} of the pixels at an end of the window"
    if visibility.outside_share > 0:
        share += f", {visibility.outside_share:.0%} outside the volume"
    kinds = [kind.removeprefix("views_") for kind in kinds_of(visibility.bits) if kind != EMPTY]
    return f"{share}: shows nothing ({', '.join(kinds)})" if kinds else share


def _plain(value: float) -> str:
    return _signed(abs(value))


def _signed(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def pair_in_words(a: View, b: View, unit: str) -> str:
    """All targets of a pair, a line each."""
    return "\n".join((displacement_in_words(a, b), rotation_in_words(a, b), window_in_words(a, b, unit)))
