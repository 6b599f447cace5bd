"""Still views: views at given points without random draws, except one layout of patches for all of them (pure)."""

from __future__ import annotations

import numpy as np

from prism_ssl.config.schema import ViewConfig
from prism_ssl.contracts import Float32, Float64
from prism_ssl.data.scan import OpenScan
from prism_ssl.data.views.view_pairs import View, draw_in_ball, room_mm
from prism_ssl.utils.seeds import generator_for


def still_layout(n_patches: int, seed: int) -> Float32:
    """Patch centres [N, 3] in a ball of radius 1, uniform; ``seed`` alone fixes them."""
    return draw_in_ball(n_patches, 1.0, generator_for(seed, "still layout"))


def still_radius_mm(scan: OpenScan, centers_mm: Float64, config: ViewConfig) -> Float64:
    """Radius [M] of the still views at RAS points [M, 3].

    The middle of ``config``'s radii; nearer to a face of the scan, down to ``radius_mm_floor``, and there the ball
    reaches out of the scan.
    """
    middle_mm = (config.radius_mm_min + config.radius_mm_max) / 2
    radius: Float64 = np.clip(room_mm(scan.affine, scan.shape, centers_mm), config.radius_mm_floor, middle_mm)
    return radius


def still_views(scan: OpenScan, centers_mm: Float64, config: ViewConfig, layout: Float32) -> list[View]:
    """The view at each RAS point [M, 3]: ``layout`` in the ball of ``still_radius_mm``, not rotated, and windowed about
    the scan's median with the middle of ``config``'s widths. Scan, point and layout alone fix it."""
    width_std = (config.window_width_std_min + config.window_width_std_max) / 2
    return [
        View(
            center_mm=center_mm,
            radius_mm=radius_mm,
            rotation_deg=np.zeros(3),
            window_center=scan.stats.median,
            window_width=width_std * scan.stats.std,
            positions_mm=layout * np.float32(radius_mm),
        )
        for center_mm, radius_mm in zip(centers_mm, still_radius_mm(scan, centers_mm, config).tolist(), strict=True)
    ]
