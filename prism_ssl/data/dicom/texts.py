"""Filter the texts of a DICOM header that are written to the archive's table.

Codes pass if they are in a list, names of machines and sequences if they look like one and hold no word of the fields
that identify. Free text (descriptions) is reduced to words of a list: a name, a date or a number cannot pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import polars as pl

from prism_ssl.data.dicom.header import IDENTITY
from prism_ssl.data.dicom.instance import Instance
from prism_ssl.data.filters import DERIVED, LOCALIZERS, TIME_SERIES, has_contrast_agent

_BODY_PARTS = """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF
    CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CHESTPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON
    CORNEA CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT
    FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER
    LSPINE LSSPINE LUNG MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY
    PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SACRUM SCALP SCAPULA SCLERA SCROTUM SHOULDER
    SIJOINT SINUS SKULL SPINE SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THUMB THYMUS THYROID TLSPINE TMJ TOE TONGUE
    TRACHEA TSPINE URETER URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
"""
BODY_PARTS = frozenset(_BODY_PARTS.split())
"""Defined terms of Body Part Examined (DICOM PS3.16, annex L), and common unions of them."""

_MODALITIES = """
    AR ASMT AU BI BMD CR CT DG DOC DX ECG EPS ES FID GM HC HD IO IVOCT IVUS KO LS M3D MG MR NM OAM OCT OP OPT OT PLAN PR
    PT PX REG RF RG RTDOSE RTIMAGE RTPLAN RTRECORD RTSTRUCT RWV SEG SM SR TG US XA XC
"""
MODALITIES = frozenset(_MODALITIES.split())
"""Defined terms of Modality."""
_MAKERS = {
    "SIEMENS": "Siemens", "GE": "GE", "PHILIPS": "Philips", "TOSHIBA": "Canon", "CANON": "Canon", "HITACHI": "Fujifilm",
    "FUJIFILM": "Fujifilm", "UIH": "United Imaging", "NEUSOFT": "Neusoft", "SHIMADZU": "Shimadzu", "PICKER": "Picker",
    "ELSCINT": "Elscint", "HYPERFINE": "Hyperfine", "BRUKER": "Bruker", "ESAOTE": "Esaote", "SAMSUNG": "Samsung",
    "CPS": "Siemens", "IMATRON": "GE", "MARCONI": "Philips", "ADAC": "Philips", "MINFOUND": "MinFound",
    "UNITED": "United Imaging",
    "CARESTREAM": "Carestream", "PLANMECA": "Planmeca", "ACCURAY": "Accuray", "VARIAN": "Varian",
}  # fmt: skip
_OTHER = "other"

_WORDS = """
    AX AXIAL TRA TRANS TRANSVERSE TRANSVERSAL COR CORONAL SAG SAGITTAL OBL OBLIQUE ISO LEFT RIGHT LT RT BILAT
    BILATERAL UPPER LOWER LIMB PROX DIST PRE POST WITH WITHOUT WO W NON CONTRAST CONTRASTED ENHANCED UNENHANCED
    NATIVE PLAIN IV ORAL GD GAD GADO KM CM ART ARTERIAL VEN VENOUS PORTAL PORTOVENOUS PV DELAYED DELAY LATE EQUILIBRIUM
    NEPHROGRAPHIC EXCRETORY PHASE PHASES ANGIO CTA MRA MRV MRCP TOF PC CE CT MR MRI PET CTAC AC NAC LOWDOSE LDCT HRCT
    T1 T2 T1W T2W PD PDW T2STAR T1RHO FLAIR STIR TIRM DIR FS FATSAT FAT SAT SUPPRESSED SPAIR SPIR DIXON IP OP INPHASE
    OUTPHASE IDEAL LAVA VIBE THRIVE FSPGR SPGR MPRAGE MP2RAGE BRAVO TFE TFL FFE GRE FLASH FL2D FL3D SE TSE FSE HASTE
    SSFSE SSTSE TRUFI FIESTA BTFE CISS SPACE CUBE VISTA BLADE PROPELLER EPI SWI SWAN IR FIR MEDIC MERGE DESS
    MPR MAG MAGNITUDE NORM ND DIS2D DIS3D DESCR RMS MEAN
    SOFT TISSUE SOFTTISSUE STANDARD STD BONE LUNG LUNGS SHARP SMOOTH DETAIL KERNEL RECON THIN THICK SLICE SLICES HIGH
    RES RESOLUTION FINE ROUTINE HELICAL SPIRAL VOLUME VOL BREATH HOLD FREE BREATHING INSP INSPIRATION EXP EXPIRATION
    GATED TRIGGERED NAV PRONE SUPINE DECUB STACK
    ABD ABDO ABDOMINAL THORAX THORACIC CHEST PULMONARY CARDIAC CRANIAL CRANIUM CEREBRAL NEURO HEPATIC RENAL URO PELVIC
    LUMBAR CERVICAL SACRAL HNC HEAD BODY TRUNK WB WHOLE TOTAL SPINE PITUITARY TEMPORAL BONES SINUSES ORBITS KNEES HIPS
    AND OF THE TO FOR IN 2D 3D
"""
WORDS = frozenset(_WORDS.split())
"""Words of protocols; those of the filters and the body parts count too."""
_VOCABULARY = (
    WORDS
    | BODY_PARTS
    | {part for words in (TIME_SERIES, LOCALIZERS, DERIVED) for word in words for part in word.split()}
)
_MEASURE = re.compile(r"\d{1,2}([.,]\d{1,3})?(MM|CM|T)")
_KERNEL = re.compile(r"(B[FLMRV]|H[CFRV]|Q[FR]|S[AD]|U[BR])\d{2}[DFHMSU]?|[BDIJQTU]\d{2}[DFHMSU]|H\d{2}[DHSU]|FC\d{2}")
"""Kernels of Siemens (B60f, Br40d) and Canon (FC08). One letter and a number may be sex and age: F82Y, H45, H82F."""
_B_VALUE = re.compile(r"B(0|50|[1-9]\d?[05]0)")
_YEAR = re.compile(r"[A-Z](19\d\d|20[0-2]\d|2030)")
_MACHINE_TEXT = re.compile(r"[A-Za-z0-9 _\-+*/.#()=:,\\]{1,48}")
_LONG_NUMBER = re.compile(r"\d{6,}|\d{2,4}[.\-/]\d{1,2}[.\-/]\d{2,4}")


def modality(text: str) -> str:
    """The modality if it is a defined term, "other" for another text, "" for none."""
    return text if text in MODALITIES or not text else _OTHER


def maker(text: str) -> str:
    """The manufacturer by its common name, "other" for an unknown one, "" for none."""
    if not text.strip():
        return ""
    words = re.split(r"[^A-Z]+", text.upper())
    return next((_MAKERS[word] for word in words if word in _MAKERS), _OTHER)


def body_part(text: str) -> str:
    """The body part if it is a defined term, "other" for another text, "" for none."""
    word = re.sub(r"[^A-Z]", "", text.upper())
    return word.lower() if word in BODY_PARTS else _OTHER if word else ""


def machine_text(text: str, identifying: Iterable[str]) -> str:
    """A model, kernel or sequence as it is; "" if it holds a long number, or a word that identifies.

    A word of four characters or more is found inside another one too.
    """
    if not _MACHINE_TEXT.fullmatch(text) or _LONG_NUMBER.search(text):
        return ""
    told = _words(text)
    found = (word in told or (len(word) > 3 and any(word in each for each in told)) for word in identifying)
    return "" if any(found) else text


def protocol_words(text: str, names: Iterable[str] = ()) -> str:
    """The words of a description that are in the vocabulary and in no name, in capitals and in their order."""
    return " ".join(word for word in _words(text) if word not in names and _is_of_protocols(word))


def _is_of_protocols(word: str) -> bool:
    if _YEAR.fullmatch(word):
        return False
    return word in _VOCABULARY or any(kind.fullmatch(word) for kind in (_MEASURE, _KERNEL, _B_VALUE))


def contrast_agent(text: str | None) -> bool | None:
    """Whether a contrast agent was given; None if the header does not say."""
    told: bool | None = pl.select(has_contrast_agent(pl.lit(text, pl.String))).item()
    return told


def identifying_words(instance: Instance, fields: Iterable[str] = IDENTITY) -> frozenset[str]:
    """Words of the fields that identify, each of three characters or more."""
    texts = (instance.texts.get(name, "") for name in fields)
    return frozenset(word for text in texts for word in _words(text) if len(word) >= 3)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^A-Za-z0-9.]+|_", text.upper()) if word]
