"""Check scans: the checks, the verdict on each file, the manifest of verdicts, the quarantine."""

from prism_ssl.data.checks.catalog_scans import catalog_config, catalog_records, open_prepared, usable_scans
from prism_ssl.data.checks.manifest import Manifest, ManifestRow, find_row, read_manifest
from prism_ssl.data.checks.quarantine import Quarantine, QuarantinedScan, quarantine_scan
from prism_ssl.data.checks.scan_checks import inspect_and_open
from prism_ssl.data.checks.verdict import check_scan, file_signature, verdict_key

__all__ = [
    "Manifest",
    "ManifestRow",
    "Quarantine",
    "QuarantinedScan",
    "catalog_config",
    "catalog_records",
    "check_scan",
    "file_signature",
    "find_row",
    "inspect_and_open",
    "open_prepared",
    "quarantine_scan",
    "read_manifest",
    "usable_scans",
    "verdict_key",
]
