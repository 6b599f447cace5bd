"""Import DICOM: find series, leave out what is no volume, convert the others, write the archive's table.

Needs pydicom and dcm2niix, which are an extra: import this package inside functions only.
"""

from prism_ssl.data.dicom.catalog_rows import CATALOG_FILE, LEFT_OUT_FILE
from prism_ssl.data.dicom.converter import converted, dcm2niix, place_volume
from prism_ssl.data.dicom.files import files_below, read_file
from prism_ssl.data.dicom.job import Spread, import_dicom
from prism_ssl.data.dicom.request import ImportReport, ImportRequest

__all__ = [
    "CATALOG_FILE",
    "LEFT_OUT_FILE",
    "ImportReport",
    "ImportRequest",
    "Spread",
    "converted",
    "dcm2niix",
    "files_below",
    "import_dicom",
    "place_volume",
    "read_file",
]
