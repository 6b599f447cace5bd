"""Read a catalogue's table: its text, its columns, a stable order of its rows, the file of a row."""

from prism_ssl.data.table.columns import OPTIONAL, REQUIRED, column_names
from prism_ssl.data.table.csv_text import refuse_other_texts
from prism_ssl.data.table.hash_order import BATCH_ROWS, IDENTITY, HashOrder
from prism_ssl.data.table.nifti_folder import folder_table
from prism_ssl.data.table.series_file import resolve_nifti

__all__ = [
    "BATCH_ROWS",
    "IDENTITY",
    "OPTIONAL",
    "REQUIRED",
    "HashOrder",
    "column_names",
    "folder_table",
    "refuse_other_texts",
    "resolve_nifti",
]
