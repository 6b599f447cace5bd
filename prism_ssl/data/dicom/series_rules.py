"""The rules that leave files out by what they say of themselves, before their geometry is looked at; pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.dicom.reasons import LeftOut, Refusal
from prism_ssl.data.filters import is_localizer

SYNTAXES = {
    "1.2.840.10008.1.2": "implicit little endian",
    "1.2.840.10008.1.2.1": "explicit little endian",
    "1.2.840.10008.1.2.2": "big endian",
    "1.2.840.10008.1.2.4.50": "JPEG baseline",
    "1.2.840.10008.1.2.4.51": "JPEG extended",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}
"""Encodings that dcm2niix reads."""
GREY = ("MONOCHROME1", "MONOCHROME2", "")
_SCREENS = {"SCREEN SAVE", "SCREENSAVE", "SCREENSHOT", "SCREEN CAPTURE", "DOSE REPORT", "DOSE_INFO", "PROT"}
_PROJECTIONS = {"MIP", "MINIP", "MIN IP", "MAXIP", "PROJECTION IMAGE", "VOLREN", "VRT", "VOLUME RENDERING", "CPR"}
_NO_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"}
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}

Rule = Callable[[Sequence[Instance], Sequence[str]], Refusal | None]


def refusal_of(instances: Sequence[Instance], modalities: Sequence[str]) -> Refusal | None:
    """The first rule that files of one kind break, or None."""
    return next((refusal for rule in RULES if (refusal := rule(instances, modalities)) is not None), None)


def _image_types(instances: Sequence[Instance]) -> set[str]:
    return {word for instance in instances for frame in instance.frames for word in frame.image_type}


def _is_image(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    without = sum(not (each.rows and each.columns) for each in instances)
    return Refusal(LeftOut.NOT_AN_IMAGE, f"{without} files have no rows and columns") if without else None


def _of_modality(instances: Sequence[Instance], modalities: Sequence[str]) -> Refusal | None:
    if instances[0].modality in modalities:
        return None
    return Refusal(LeftOut.OTHER_MODALITY, f"needed: {' or '.join(modalities)} (--modality)")


def _acquired(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    if any(each.captured for each in instances) or _image_types(instances) & _SCREENS:
        return Refusal(LeftOut.SECONDARY_CAPTURE, f"{len(instances)} captured screens or reports")
    return None


def _without_burned_in_text(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    marked = sum(each.burned_in for each in instances)
    return Refusal(LeftOut.BURNED_IN_TEXT, f"{marked} images say that text is burned in") if marked else None


def _grey(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    coloured = sum(each.samples != 1 or each.photometric not in GREY for each in instances)
    return Refusal(LeftOut.COLOUR, f"{coloured} images are in colour") if coloured else None


def _complete(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    for state, reason, words in (
        ("none", LeftOut.NO_PIXELS, "hold a header only"),
        ("short", LeftOut.TRUNCATED_PIXELS, "end before their pixels do"),
        ("float", LeftOut.UNSUPPORTED_PIXELS, "hold floating-point pixels"),
        ("shifted", LeftOut.UNSUPPORTED_PIXELS, "hold pixels that are not in the lowest bits"),
    ):
        if count := sum(each.pixels == state for each in instances):
            return Refusal(reason, f"{count} files {words}")
    return None


def _integers(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    bits, signed = instances[0].bits, instances[0].signed
    if bits == 16 or (bits == 8 and not signed):
        return None
    sign = " with a sign" if signed else ""
    return Refusal(LeftOut.UNSUPPORTED_PIXELS, f"{bits} bits a pixel{sign}; needed: 16, or 8 without a sign")


def _decodable(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    unknown = sum(each.syntax not in SYNTAXES for each in instances)
    return (
        Refusal(LeftOut.UNSUPPORTED_TRANSFER_SYNTAX, f"{unknown} files, in one that dcm2niix does not read")
        if unknown
        else None
    )


def _no_localizer(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    if _image_types(instances) & _LOCALIZERS or _described(instances, is_localizer):
        return Refusal(LeftOut.LOCALIZER, f"{len(instances)} planning images")
    return None


def _described(instances: Sequence[Instance], test: Callable[[pl.Expr], pl.Expr]) -> bool:
    texts = pl.Series("text", [instances[0].texts.get("SeriesDescription", "")], dtype=pl.String)
    return bool(pl.select(test(pl.lit(texts)).any()).item())


def _no_projection(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    if _image_types(instances) & _PROJECTIONS:
        return Refusal(LeftOut.PROJECTION, f"{len(instances)} images computed from a volume")
    return None


def _no_mosaic(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    if "MOSAIC" in _image_types(instances):
        return Refusal(
            LeftOut.MOSAIC, f"{len(instances)} images that hold many slices side by side: perfusion or diffusion"
        )
    return None


def _magnitude(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    frames = [frame for each in instances for frame in each.frames]
    if instances[0].modality == "MR" and all(_NO_MAGNITUDE.intersection(frame.image_type) for frame in frames):
        return Refusal(LeftOut.NOT_MAGNITUDE, f"{len(instances)} images of phase, real or imaginary part")
    return None


def _in_hu(instances: Sequence[Instance], _: Sequence[str]) -> Refusal | None:
    if instances[0].modality != "CT":
        return None
    frames = [frame for each in instances for frame in each.frames]
    # US: unspecified
    other = sum(frame.rescale_type not in ("", "US", "HU") for frame in frames)
    lost = sum(frame.slope is None or frame.slope == 0 or frame.intercept is None for frame in frames)
    if other or lost:
        return Refusal(
            LeftOut.CT_NOT_IN_HU, f"of {len(frames)} slices {lost} have no scaling, {other} another unit than HU"
        )
    return None


RULES: tuple[Rule, ...] = (
    _is_image,
    _of_modality,
    _acquired,
    _without_burned_in_text,
    _grey,
    _complete,
    _integers,
    _decodable,
    _no_localizer,
    _no_projection,
    _no_mosaic,
    _magnitude,
    _in_hu,
)
