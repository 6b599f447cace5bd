"""Proxy quality of an encoder: the evidence of each patient, its composite, intervals and paired comparisons."""
