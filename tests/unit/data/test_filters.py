from collections.abc import Callable, Sequence
from itertools import product

import polars as pl
import pytest

from prism_ssl.data import filters

Predicate = Callable[[pl.Expr], pl.Expr]


def named(predicate: Predicate, texts: Sequence[str | None]) -> list[str | None]:
    """Those of the texts that the predicate is true of."""
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    verdicts = frame.select(predicate(pl.col("text"))).to_series()
    assert verdicts.null_count() == 0  # null would pass as "drop" in one filter and as "keep" in its negation
    return frame.filter(verdicts)["text"].to_list()


def test_time_series_are_known_by_their_words() -> None:
    words = [
        "PERFUSION", "CT_PERFUSION_HEAD", "ep2d_diff_b1000", "AX DWI", "DWI2", "dti_64dir", "ADC", "AX_ADC_MAP",
        "TRACEW", "BOLD", "task-rest_bold", "fMRI motor", "resting-state", "CINE_SA", "DYN", "DYN12",
        "T1 DYNAMIC LIVER", "4D FLOW", "asl_3d", "DSC", "time-resolved MRA", "TWIST", "PreMonitoring", "SmartPrep",
        "Test Bolus",
    ]  # fmt: skip
    assert named(filters.is_time_series, words) == words


def test_words_that_only_contain_a_time_series_word_are_kept() -> None:
    words = [
        "T1_MPRAGE", "PERFORATION", "DYNACT HEAD", "MEDICINE", "BASAL", "AX T2", "ABOLD", "POST BOLUS",
        "DIFFERENTIAL", "14D",
    ]  # fmt: skip
    assert named(filters.is_time_series, words) == []


def test_localizers_are_known_by_their_words() -> None:
    words = [
        "LOCALIZER", "3-PLANE LOC", "3plane", "3 Pl", "LOC_1", "LOCS", "ax_loc2", "SCOUT", "AAHead_Scout",
        "AAHScout", "Topogram 0.6 T20f", "SURVEY", "Surview", "scanogram", "localiser", "PILOT",
    ]  # fmt: skip
    assert named(filters.is_localizer, words) == words


def test_words_that_only_contain_a_localizer_word_are_kept() -> None:
    words = ["BLOCK", "ALLOCATED", "LOCAL RECURRENCE", "13 PLANE", "AIRPLANE", "TOPOLOGY", "AX T1"]
    assert named(filters.is_localizer, words) == []


def test_derived_images_are_known_by_their_words() -> None:
    words = [
        "MIP", "COR_MIP_3MM", "MIPS", "MinIP", "CTA 3D VR", "SAG REFORMAT", "coronal reformats", "COR MPR",
        "mpr_sag", "SUBTRACTION", "T1_SUB", "SUB2", "DERIVED", "ADC MAP", "ADC", "T2_MAP", "PARAMETRIC", "CBV",
        "rCBF", "Tmax", "Dose Report", "SCREEN_SAVE", "screenshot", "KEY IMAGES",
    ]  # fmt: skip
    assert named(filters.is_derived, words) == words


def test_acquired_images_are_not_derived() -> None:
    words = [
        "T1_MPRAGE", "t1_mpr_sag_p2_iso", "T1W MPR", "SUBMANDIBULAR", "SUBACUTE", "MAPPING", "RIPPLE", "AX T1",
        "VR", "POST FUSION", "CT_ABDOMEN_PELVIS_3MM",
    ]  # fmt: skip
    assert named(filters.is_derived, words) == []


@pytest.mark.parametrize("predicate", [filters.is_time_series, filters.is_localizer, filters.is_derived])
def test_no_text_and_foreign_text_speak_of_nothing(predicate: Predicate) -> None:
    assert named(predicate, [None, "", "   ", "_", "Zurück", "頭部 CT"]) == []


@pytest.mark.parametrize(
    ("predicate", "words"),
    [
        (filters.is_time_series, filters.TIME_SERIES),
        (filters.is_localizer, filters.LOCALIZERS),
        (filters.is_derived, filters.DERIVED),
    ],
)
def test_every_word_is_found_between_any_separators_and_never_inside_a_longer_word(
    predicate: Predicate, words: tuple[str, ...]
) -> None:
    spelt = product(words, (" ", "_", "-", ""), (str.upper, str.lower, str.title))
    found = [spell(word.replace(" ", gap)) for word, gap, spell in spelt]
    apart = [f"ax_{word}.b2" for word in found]
    assert named(predicate, apart) == apart
    assert named(predicate, [f"q{word}q" for word in found]) == []


def test_the_description_speaks_before_the_exam_type() -> None:
    frame = pl.DataFrame(
        {
            "series_description": ["T1 POST", None, "  ", None, "DWI"],
            "exam_type": ["MRI BRAIN PERFUSION", "MRI BRAIN PERFUSION", "CT HEAD", None, None],
        }
    )
    text = frame.select(filters.series_text()).to_series()
    assert text.to_list() == ["T1 POST", "MRI BRAIN PERFUSION", "CT HEAD", "", "DWI"]
    drops = frame.select(filters.is_time_series(filters.series_text())).to_series()
    assert drops.to_list() == [False, True, False, False, True]


def test_modality_is_compared_without_case_and_blanks() -> None:
    frame = pl.DataFrame({"modality": ["CT", " ct ", "Mr", "MRI", "CTA", "", None]})
    kept = frame.select(filters.has_modality(("ct", " MR "))).to_series()
    assert kept.to_list() == [True, True, True, False, False, False, False]
    assert frame.select(filters.modality_name()).to_series().to_list() == ["CT", "CT", "MR", "MRI", "CTA", "", ""]


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        (True, ["Omnipaque 350", "GADAVIST", "true", "1", "1.0", "yes", "T", "Non-ionic", "NONIONIC IODINE", "Nomag",
                "WITHOUT AND WITH CONTRAST", "WO/W", "w/o & w/ contrast", "100 ML"]),
        (False, ["NO", "none", "Without", "WITHOUT CONTRAST", "NO IV CONTRAST", "no_contrast", "NON-CONTRAST",
                 "NON_CONTRAST", "NONCONTRAST", "NO AGENT", "W/O", "w/o contrast", "WO", "0", "0.0", "f", "FALSE", "N",
                 "unenhanced", "NATIVE", "Plain", "not given", "0 ML", "0.0ml", "0 cc", "(NONE)", "NIL", "[no]",
                 "w/o oral, w/o iv"]),
        (None, [None, "", "  ", "N/A", "na", "n.a.", "-", "--", "?", "nan", "null", "UNKNOWN", "not known",
                "Not specified", "(N/A)"]),
    ],
)  # fmt: skip
def test_a_contrast_agent_is_told_denied_or_not_spoken_of(given: bool | None, texts: list[str | None]) -> None:
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    told = frame.select(filters.has_contrast_agent(pl.col("text"))).to_series().to_list()
    assert dict(zip(texts, told, strict=True)) == dict.fromkeys(texts, given)
