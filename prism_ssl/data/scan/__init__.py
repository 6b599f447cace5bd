"""Open scans: NIfTI header, geometry, intensity statistics, time-limited reads."""

from prism_ssl.data.scan.bounded_reads import ReadLimits, archive_root, is_not_empty, read_within, within
from prism_ssl.data.scan.byte_stream import gzip_file
from prism_ssl.data.scan.channel_volume import read_volume, write_volume
from prism_ssl.data.scan.geometry import (
    NEAR_ISOTROPIC,
    acquisition_frame,
    apply_affine,
    euler_xyz_deg_to_matrix,
    inverse,
    plane_distance_mm,
    spacing_mm,
)
from prism_ssl.data.scan.header_geometry import check_agreement, times
from prism_ssl.data.scan.intensity import AIR_VALUE_MIN, robust_stats, stats_sample
from prism_ssl.data.scan.nifti import (
    SMALLEST_FLOAT,
    OpenScan,
    ScanHeader,
    check_openable,
    load_voxels,
    open_scan,
    read_header,
)
from prism_ssl.data.scan.nifti_writer import nifti_bytes
from prism_ssl.data.scan.read_errors import out_of_memory, read_failure
from prism_ssl.data.scan.reject_reasons import TRANSIENT_REASONS, RejectReason
from prism_ssl.data.scan.slices import MiddleSlice, middle_slice
from prism_ssl.data.scan.volume_memory import VolumeMemory

__all__ = [
    "AIR_VALUE_MIN",
    "NEAR_ISOTROPIC",
    "SMALLEST_FLOAT",
    "TRANSIENT_REASONS",
    "MiddleSlice",
    "OpenScan",
    "ReadLimits",
    "RejectReason",
    "ScanHeader",
    "VolumeMemory",
    "acquisition_frame",
    "apply_affine",
    "archive_root",
    "check_agreement",
    "check_openable",
    "euler_xyz_deg_to_matrix",
    "gzip_file",
    "inverse",
    "is_not_empty",
    "load_voxels",
    "middle_slice",
    "nifti_bytes",
    "open_scan",
    "out_of_memory",
    "plane_distance_mm",
    "read_failure",
    "read_header",
    "read_volume",
    "read_within",
    "robust_stats",
    "spacing_mm",
    "stats_sample",
    "times",
    "within",
    "write_volume",
]
