"""Import DICOM: find series, leave out what is no volume, convert the others, write the archive's table.

Needs pydicom and dcm2niix, which are an extra: import this package inside functions only.
"""

from prism_ssl.data.dicom.catalog_rows import CATALOG_FILE, LEFT_OUT_FILE
from prism_ssl.data.dicom.converter import dcm2niix
from prism_ssl.data.dicom.files import files_below, read_file
from prism_ssl.data.dicom.job import Spread, import_dicom
from prism_ssl.data.dicom.one_volume import bring, job_of
from prism_ssl.data.dicom.request import ImportReport, ImportRequest
from prism_ssl.data.dicom.volumes import volumes_of

__all__ = [
    "CATALOG_FILE",
    "LEFT_OUT_FILE",
    "ImportReport",
    "ImportRequest",
    "Spread",
    "bring",
    "dcm2niix",
    "files_below",
    "import_dicom",
    "job_of",
    "read_file",
    "volumes_of",
]
