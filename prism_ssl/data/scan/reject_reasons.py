"""Reject reasons: why a scan is not used; the vocabulary of preflight.json."""

from __future__ import annotations

from enum import StrEnum


class RejectReason(StrEnum):
    """The reasons under which rejected scans are counted; each detail text says what was found and needed."""

    # The catalogue's path
    MISSING_PATH = "missing_path"
    NO_FILE = "no_file"
    MORE_THAN_ONE_FILE = "more_than_one_file"
    NOT_READABLE = "not_readable"
    OPEN_TIMED_OUT = "open_timed_out"
    # The container
    NOT_A_NIFTI = "not_a_nifti"
    TRUNCATED_GZIP = "truncated_gzip"
    CORRUPT_GZIP = "corrupt_gzip"
    TRUNCATED_DATA = "truncated_data"
    TRAILING_DATA = "trailing_data"
    TOO_LARGE = "too_large"
    NIFTI_LOAD_FAILED = "nifti_load_failed"
    # The header
    NOT_3D = "not_3d"
    SCOUT_SINGLE_SLICE = "scout_single_slice"
    SHAPE_TOO_SMALL = "shape_too_small"
    TOO_FEW_SLICES = "too_few_slices"
    RGB_DTYPE = "rgb_dtype"
    COMPLEX_DTYPE = "complex_dtype"
    UNSUPPORTED_DTYPE = "unsupported_dtype"
    SPACING_NOT_POSITIVE = "spacing_not_positive"
    SPACING_OUT_OF_RANGE = "spacing_out_of_range"
    AFFINE_NOT_FINITE = "affine_not_finite"
    AFFINE_SINGULAR = "affine_singular"
    CONFLICTING_GEOMETRY = "conflicting_geometry"
    NO_ORIENTATION = "no_orientation"
    # The voxels
    NAN_FILLED = "nan_filled"
    NON_FINITE_VOXELS = "non_finite_voxels"
    CONSTANT_INTENSITY = "constant_intensity"
    LABEL_MAP = "label_map"
    CT_NOT_IN_HU = "ct_not_in_hu"
    NOT_ANATOMICAL = "not_anatomical"
    STATS_DEGENERATE = "stats_degenerate"
    # The run
    QUARANTINED = "quarantined"
    CHECK_CRASHED = "check_crashed"


TRANSIENT_REASONS = frozenset(
    {RejectReason.MISSING_PATH, RejectReason.NOT_READABLE, RejectReason.OPEN_TIMED_OUT, RejectReason.CHECK_CRASHED}
)
"""Reasons that may vanish without a change to the file; never reused from a manifest."""
