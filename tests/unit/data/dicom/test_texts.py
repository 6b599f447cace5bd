"""What may be written of a DICOM header, and what may not."""

from __future__ import annotations

import pytest

from prism_ssl.data.dicom.texts import body_part, contrast_agent, machine_text, maker, protocol_words


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ThorRoutine  2.0  B60f  SMITH", "B60F"),
        ("t1_mprage_sag_p2_iso", "T1 MPRAGE SAG ISO"),
        ("AX T2 FLAIR 5MM Dr. House", "AX T2 FLAIR 5MM"),
        ("CT CHEST W CONTRAST 12/03/1961 #77441122", "CT CHEST W CONTRAST"),
        ("77441122", ""),
        ("CHEST F82Y", "CHEST"),
        ("M93 BRAIN", "BRAIN"),
        ("SMITH B1950 HEAD born B0703 H2001", "HEAD"),
        ("BED AB12 MULLER DR12 H82Y J45W A42", ""),
        ("H82 H45 B74 U31 D07 J30 Q33 H82F H82M B2000", ""),
        (
            "Br40d Bl57 Hr38 Qr36h I31s J30s U90u D30f H31s FC08 B0 B50 B1000",
            "BR40D BL57 HR38 QR36H I31S J30S U90U D30F H31S FC08 B0 B50 B1000",
        ),
        ("Müller^Hans", ""),
    ],
)
def test_a_description_keeps_words_of_protocols_only(text: str, kept: str) -> None:
    assert protocol_words(text) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("SOMATOM Force", "SOMATOM Force"),
        ("*tfl3d1_16ns", "*tfl3d1_16ns"),
        ("Scanner of Smith", ""),
        ("SmithCT", ""),
        ("installed 20190422", ""),
        ("22.04.2019", ""),
        ("Hôpital", ""),
        ("x" * 60, ""),
    ],
)
def test_a_machine_text_with_a_name_a_date_or_a_number_is_dropped(text: str, kept: str) -> None:
    assert machine_text(text, {"SMITH"}) == kept


def test_a_name_that_is_a_word_of_protocols_is_dropped() -> None:
    assert protocol_words("AX BONE of Sharp", {"SHARP"}) == "AX BONE OF"


def test_codes_pass_only_from_lists() -> None:
    assert [maker(text) for text in ("SIEMENS / MIM", "GE MEDICAL SYSTEMS", "Dr. Smith", " ")] == [
        "Siemens",
        "GE",
        "other",
        "",
    ]
    assert [body_part(text) for text in ("CHEST", "Head Neck", "SMITH", "")] == ["chest", "headneck", "other", ""]


def test_a_contrast_agent_is_yes_no_or_unknown() -> None:
    assert [contrast_agent(text) for text in ("Omnipaque 350 for Smith", "NO IV CONTRAST", "N/A", None)] == [
        True,
        False,
        None,
        None,
    ]
