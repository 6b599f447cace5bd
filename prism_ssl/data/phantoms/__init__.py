"""Generate CT and MR phantoms with known anatomy."""

from prism_ssl.data.phantoms.truth import Place, phantom_truth
from prism_ssl.data.phantoms.writer import full_size_ct, phantom_folder, write_gz, write_phantoms

__all__ = ["Place", "full_size_ct", "phantom_folder", "phantom_truth", "write_gz", "write_phantoms"]
