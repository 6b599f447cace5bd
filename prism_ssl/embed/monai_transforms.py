"""MONAI transforms (extra ``monai``): a MetaTensor's views, and their embeddings. All places are RAS in mm.

``PrismViewsd`` goes before transforms of intensity, which it does not need: windows follow from each image's own
statistics. Transforms of space (orientation, spacing, crops) may go before it: places follow from the affine.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Randomizable
from monai.utils.enums import MetaKeys, SpaceKeys

from prism_ssl.contracts import PATCH_PX, PATCH_SCALE, Float64
from prism_ssl.data.extract import extract_view
from prism_ssl.data.scan import OpenScan, RejectReason, robust_stats
from prism_ssl.data.views import View, draw_view, still_layout, still_views
from prism_ssl.embed.field.lattice import on_grid
from prism_ssl.embed.weights import embed_config
from prism_ssl.errors import ConfigError, ScanRejected
from prism_ssl.model.export import read_export
from prism_ssl.model.precision import inference_autocast

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_BATCH_VIEWS = 32


class PrismViewsd(MapTransform, Randomizable):
    """Views of images, as the encoder of ``source`` was trained on them; each key gets three more beside it.

    ``<key>_patches`` [V, N, 16, 16, 1] in [-1, 1] and ``<key>_positions_mm`` [V, N, 3] are what an encoder takes,
    ``<key>_centers_mm`` [V, 3] is where the views lie.

    Args:
        keys: of images, MetaTensor [nx, ny, nz] or [1, nx, ny, nz].
        source: a run's folder or a W&B artifact, as ``prism_ssl.load_encoder`` takes it.
        views: V views at random, drawn from MONAI's random state.
        points_key: of RAS points [V, 3]: the still view at each instead, as in ``prism field`` with seed 0.
        allow_missing_keys: as in every MONAI transform.

    Raises:
        CheckpointError: there is no encoder.
        ConfigError: on a call, for an image that is no such MetaTensor.
        ScanRejected: on a call, for an image with voxels that are not finite, or without a foreground.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source: str | Path,
        views: int = 8,
        points_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self._config = embed_config(read_export(source)[0])
        self._layout = still_layout(self._config.data.n_patches, 0)
        self._views, self._points_key = views, points_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The data with the views of each key."""
        found = dict(data)
        for key in self.key_iterator(found):
            scan = scan_of(found[key])
            views = self._random(scan) if self._points_key is None else self._at(scan, found[self._points_key])
            n_patches, patch_mm = self._config.data.n_patches, self._config.data.patch_mm
            pixels = np.empty((len(views), n_patches, PATCH_PX, PATCH_PX), np.int16)
            for view, out in zip(views, pixels, strict=True):
                extract_view(scan, view, patch_mm, out)
            positions = np.array([view.positions_mm for view in views], np.float32).reshape(-1, n_patches, 3)
            centers = np.array([view.center_mm for view in views], np.float32).reshape(-1, 3)
            found[f"{key}_patches"] = torch.from_numpy(pixels)[..., None].float().mul_(1.0 / PATCH_SCALE)
            found[f"{key}_positions_mm"] = torch.from_numpy(positions)
            found[f"{key}_centers_mm"] = torch.from_numpy(centers)
        return found

    def _random(self, scan: OpenScan) -> list[View]:
        rng = np.random.default_rng(self.R.randint(2**32, size=4, dtype=np.uint32))
        n_patches, view = self._config.data.n_patches, self._config.view
        return [draw_view(scan.affine, scan.shape, scan.stats, view, n_patches, rng) for _ in range(self._views)]

    def _at(self, scan: OpenScan, points_mm: Any) -> list[View]:
        points: Float64 = torch.as_tensor(points_mm).double().numpy().reshape(-1, 3)
        return still_views(scan, on_grid(points), self._config.view, self._layout)


class PrismEmbedd(MapTransform):
    """The embeddings of the views that ``PrismViewsd`` added: ``<key>_embedding`` [V, D], float32 on the CPU.

    Args:
        keys: as for ``PrismViewsd``.
        source: of the encoder; the same as there.
        device: that computes.
        allow_missing_keys: as in every MONAI transform.
    """

    def __init__(
        self,
        keys: KeysCollection,
        source: str | Path,
        device: str | torch.device = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        exported, encoder = read_export(source)
        self._device = torch.device(device)
        self._encoder = encoder.to(self._device)
        self._precision = embed_config(exported).train.precision

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The data with the embeddings of each key."""
        found = dict(data)
        for key in self.key_iterator(found):
            views = (found[f"{key}_{name}"].split(_BATCH_VIEWS) for name in ("patches", "positions_mm"))
            with torch.inference_mode(), inference_autocast(self._precision, self._device):
                parts = [
                    self._encoder(patches.to(self._device), positions.to(self._device)).float().cpu()
                    for patches, positions in zip(*views, strict=True)
                ]
            found[f"{key}_embedding"] = torch.cat(parts).clone()
        return found


def scan_of(image: Any) -> OpenScan:
    """A MetaTensor [nx, ny, nz] or [1, nx, ny, nz] as a scan; raises as ``PrismViewsd``."""
    shape = tuple(getattr(image, "shape", ()))
    if not isinstance(image, MetaTensor) or len(shape) - (shape[:1] == (1,)) != 3:
        found = f"{type(image).__name__} of shape {shape}"
        raise ConfigError(f"the image is a {found}; needed: a MetaTensor [nx, ny, nz] or [1, nx, ny, nz]")
    if image.meta.get(MetaKeys.SPACE, SpaceKeys.RAS) not in (SpaceKeys.RAS, SpaceKeys.LPS):
        raise ConfigError(f"the image's space is {image.meta[MetaKeys.SPACE]!r}; needed: RAS or LPS")
    is_lps = image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS
    affine = image.affine.detach().cpu().double().numpy()
    voxels = image.detach().cpu().numpy().reshape(shape[-3:]).transpose(2, 1, 0)
    voxels = np.ascontiguousarray(voxels, np.float32)
    if not np.isfinite(voxels).all():
        raise ScanRejected(RejectReason.NON_FINITE_VOXELS, "a voxel of the image is not finite; needed: none")
    return OpenScan(voxels, 1.0, 0.0, _LPS_TO_RAS @ affine if is_lps else affine, robust_stats(voxels, 1.0, 0.0))
