"""Cut views out of volumes that lie on the GPU."""

from prism_ssl.data.gpu.volumes import VolumeMirror

__all__ = ["VolumeMirror"]
