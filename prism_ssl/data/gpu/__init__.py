"""Copy to the GPU while it works, and cut views out of volumes that lie there."""

from prism_ssl.data.gpu.transfers import Mark, mark_on
from prism_ssl.data.gpu.volumes import VolumeMirror

__all__ = ["Mark", "VolumeMirror", "mark_on"]
