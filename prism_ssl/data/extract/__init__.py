"""Cut views out of open scans on the CPU, and measure what they show."""

from prism_ssl.data.extract.cpu import extract_view, warm_up
from prism_ssl.data.extract.visibility import EMPTY, KINDS, Visibility, kinds_of, measure_visibility, view_shares

__all__ = ["EMPTY", "KINDS", "Visibility", "extract_view", "kinds_of", "measure_visibility", "view_shares", "warm_up"]
