"""Generate CT and MR phantoms with known anatomy."""

from prism_ssl.data.phantoms.truth import Place, phantom_truth
from prism_ssl.data.phantoms.writer import phantom_folder, write_phantoms

__all__ = ["Place", "phantom_folder", "phantom_truth", "write_phantoms"]
