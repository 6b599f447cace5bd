"""Draw pairs of views (centre, rotation, window) and place their pixels in the scan (pure)."""

from prism_ssl.data.views.pixel_transform import MIDDLE_PX, levels, pixel_to_voxel
from prism_ssl.data.views.places import body_places, bounds_mm, on_body, shared_places
from prism_ssl.data.views.random_curve import apply_curve, random_curve
from prism_ssl.data.views.still_view import still_layout, still_radius_mm, still_views
from prism_ssl.data.views.training_pairs import Scene, TrainingPair, draw_training_pair, scene_of
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
    "Scene",
    "Shape",
    "TrainingPair",
    "View",
    "apply_curve",
    "body_places",
    "bounds_mm",
    "draw_pair",
    "draw_training_pair",
    "draw_view",
    "draw_view_at",
    "largest_radius_mm",
    "levels",
    "on_body",
    "pair_targets",
    "pixel_to_voxel",
    "random_curve",
    "room_mm",
    "scene_of",
    "shared_places",
    "still_layout",
    "still_radius_mm",
    "still_views",
]
