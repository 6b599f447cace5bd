"""Draw pairs of views (centre, rotation, window) and place their pixels in the scan (pure)."""

from prism_ssl.data.views.pixel_transform import MIDDLE_PX, levels, pixel_to_voxel
from prism_ssl.data.views.view_pairs import (
    PairTargets,
    Shape,
    View,
    draw_pair,
    draw_view,
    draw_view_at,
    largest_radius_mm,
    pair_targets,
    room_mm,
)

__all__ = [
    "MIDDLE_PX",
    "PairTargets",
    "Shape",
    "View",
    "draw_pair",
    "draw_view",
    "draw_view_at",
    "largest_radius_mm",
    "levels",
    "pair_targets",
    "pixel_to_voxel",
    "room_mm",
]
