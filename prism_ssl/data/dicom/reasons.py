"""Reasons to leave out a file or a series: the names under which an import counts them."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class LeftOut(StrEnum):
    """Reasons, in the order in which they are looked for; docs/import.md explains each."""

    NOT_DICOM = "not_dicom"
    DAMAGED_HEADER = "damaged_header"
    NOT_READABLE = "not_readable"
    DAMAGED_CONTAINER = "damaged_container"
    NESTED_CONTAINER = "nested_container"
    PACKED = "packed"

    NOT_AN_IMAGE = "not_an_image"
    OTHER_MODALITY = "other_modality"
    SECONDARY_CAPTURE = "secondary_capture"
    BURNED_IN_TEXT = "burned_in_text"
    COLOUR = "colour"
    NO_PIXELS = "no_pixels"
    TRUNCATED_PIXELS = "truncated_pixels"
    UNSUPPORTED_PIXELS = "unsupported_pixels"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    LOCALIZER = "localizer"
    PROJECTION = "projection"
    MOSAIC = "mosaic"
    NOT_MAGNITUDE = "not_magnitude"
    NO_GEOMETRY = "no_geometry"
    CT_NOT_IN_HU = "ct_not_in_hu"
    SINGLE_SLICE = "single_slice"
    TOO_FEW_SLICES = "too_few_slices"
    VARYING_ORIENTATION = "varying_orientation"
    TIME_SERIES = "time_series"
    DOUBLED_SLICES = "doubled_slices"
    MISSING_SLICES = "missing_slices"
    UNEVEN_SPACING = "uneven_spacing"
    SHEARED_STACK = "sheared_stack"
    SEVERAL_VOLUMES = "several_volumes"

    CONVERSION_FAILED = "conversion_failed"
    CONVERSION_TIMED_OUT = "conversion_timed_out"
    CONVERSION_CRASHED = "conversion_crashed"
    CONVERSION_DISAGREES = "conversion_disagrees"


OF_GEOMETRY = frozenset(
    {
        *(LeftOut.SINGLE_SLICE, LeftOut.TOO_FEW_SLICES, LeftOut.VARYING_ORIENTATION, LeftOut.TIME_SERIES),
        *(LeftOut.DOUBLED_SLICES, LeftOut.MISSING_SLICES, LeftOut.UNEVEN_SPACING, LeftOut.SHEARED_STACK),
        LeftOut.SEVERAL_VOLUMES,
    }
)
"""Reasons that may follow from files that are gone; the others before a conversion follow from a file that is there."""
TRANSIENT = frozenset({LeftOut.NOT_READABLE, LeftOut.CONVERSION_TIMED_OUT, LeftOut.CONVERSION_CRASHED})
"""Tried again by the next run, though nothing has changed."""


class Refusal(NamedTuple):
    """A reason and the numbers behind it; ``detail`` holds no text of the file."""

    reason: LeftOut
    detail: str
