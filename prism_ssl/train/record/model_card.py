"""Write model_card.md beside an exported encoder: training data, held-out evaluation, alarms, limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prism_ssl.config.network import ENCODER_INPUTS
from prism_ssl.contracts import PATCH_PX
from prism_ssl.model.backbone import PRESETS
from prism_ssl.model.encoder_source import CARD_FILE, DESCRIPTION_FILE
from prism_ssl.report.held_out_tables import measures, notes, verdict
from prism_ssl.utils.fs import write_atomic


def save_model_card(
    folder: Path, probe: Mapping[str, float], alarms: Sequence[str], not_judged: str | None = None
) -> None:
    """Write model_card.md beside encoder.json in ``folder``; it holds no path and no id of a patient, series or scan.

    Args:
        folder: where the encoder was exported to.
        probe: scalars of the last held-out evaluation.
        alarms: the run's alarms, as in its summary.
        not_judged: the alarms that the run was too short to raise, as in its summary.
    """
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    write_atomic(folder / CARD_FILE, _card(description, probe, alarms, not_judged).encode())


def _card(
    description: Mapping[str, Any], probe: Mapping[str, float], alarms: Sequence[str], not_judged: str | None
) -> str:
    parts = [
        f"# Encoder of run {description['run']}",
        _what_it_is(description),
        "## Load it",
        '```python\nimport prism_ssl\n\nencoder = prism_ssl.load_encoder("FOLDER OF THIS FILE")\n```',
        "A whole archive:",
        "```\nprism embed --catalog TABLE --checkpoint FOLDER --out FILE.parquet\n```",
        "## Trained on",
        _data(description["data"]),
        "## Held-out evaluation",
        _evaluation(probe, description),
        "## Alarms of the run",
        "\n".join(f"- {line}" for line in (*alarms, *([not_judged] if not_judged else ()))) or "None.",
        "## Intended use",
        _INTENDED,
        "## Limits",
        _LIMITS + (_PHANTOMS if description["data"]["generated_phantoms"] else ""),
    ]
    return "\n\n".join(parts) + "\n"


_INTENDED = (
    "Research only: features of CT and MR series for retrieval and probes, and initial weights for supervised "
    "training. Not for diagnosis, triage, or any decision about a patient."
)
_LIMITS = (
    "- The encoder was not evaluated on any clinical task. Probe it on yours, and compare with random weights.\n"
    "- A measure at the level of chance, or of random weights, shows that nothing was learned there.\n"
    "- The encoder has not seen scanners, protocols, ages or body parts that the archive lacks.\n"
    "- Embeddings also encode modality, spacing and protocol: check that a probe reads anatomy and not those.\n"
    "- Weights can retain traces of the training scans: handle them under the rules of the archive.\n"
    "- Embeddings are bit-identical only on the CPU and for the same batch of views, not across devices."
)
_UNPROVEN = (
    "that are held out now. An earlier version of this software began the run and did not record its split: if the "
    "table of scans has changed since, the encoder may have been trained on some of these patients."
)
_PHANTOMS = "\n- **The encoder was trained on generated phantoms only. It has never seen a scan of a patient.**"


def _what_it_is(description: Mapping[str, Any]) -> str:
    config, shape = description["config"], PRESETS[description["preset"]]
    normalized, placed = (description.get(name, False) for name in ENCODER_INPUTS)
    loss, train, view = config["loss"], config["train"], config["view"]
    objective = "NT-Xent (SimCLR baseline)" if loss["simclr_baseline"] else config["model"]["objective"]
    rows = {
        "encoder": f"{description['preset']}: {shape.width} wide, {shape.depth} deep, {shape.heads} heads",
        "input": (
            f"{description['n_patches']} patches of {PATCH_PX} x {PATCH_PX} x 1 pixels over "
            f"{description['patch_mm']:g} mm, windowed to [-1, 1]{', normalized' if normalized else ''}, "
            f"and their centres in mm{', also as features of the tokens,' if placed else ''} "
            f"in a ball of {view['radius_mm_min']:g} to {view['radius_mm_max']:g} mm"
        ),
        "output": f"one embedding of {shape.width} numbers a view{_read_otherwise(config)}",
        "objective": objective,
        "training": (
            f"{description['step']} of {train['max_steps']} steps of {train['batch_size']} pairs, "
            f"seed {train['seed']}, recipe {config['recipe']}"
        ),
        **({"started from": _lineage(description["lineage"])} if description.get("lineage") else {}),
        "weights": f"sha256 {description['weights_sha256']}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _read_otherwise(config: Mapping[str, Any]) -> str:
    """A reader of the scores must know where they are not those of the embedding that is given."""
    if config.get("eval", {}).get("pooling", "cls") == "cls":
        return ""
    return "; the scores below are of the mean of its patch tokens (return_patches=True)"


def _lineage(lineage: Mapping[str, Any]) -> str:
    """The runs whose weights this one began with, the latest first."""
    step = "" if lineage["step"] is None else f" at step {lineage['step']}"
    what = "the encoder" if lineage["parts"] == "encoder" else "all weights"
    told = f"{what} of run {lineage['run']}{step} (sha256 {lineage['weights_sha256'][:16]})"
    return f"{told}, which started from {_lineage(lineage['before'])}" if lineage.get("before") else told


def _data(data: Mapping[str, Any]) -> str:
    lines = [
        f"- {what}: {counts['scans']} scans of {counts['series']} series and {counts['patients']} patients"
        f" ({', '.join(f'{n} {modality}' for modality, n in counts['modalities'].items())})"
        for what, counts in (("training", data["training"]), ("held out", data["held_out"]))
    ]
    return "\n".join([*lines, f"- hash of the data manifest: `{data['manifest_hash']}`"])


def _evaluation(probe: Mapping[str, float], description: Mapping[str, Any]) -> str:
    data = description["data"]
    rows = measures(probe)
    if not rows:
        return "None: no held-out scan could be evaluated. The quality of this encoder is unknown."
    on_body = description["config"]["eval"].get("centers") == "foreground"
    scans = f"{probe.get('scans', data['held_out']['scans']):.0f} scans of patients "
    said = f"Fixed views{', centred on the body,' if on_body else ''} of {scans}"
    said += "that it was not trained on." if data.get("held_out_proven", True) else _UNPROVEN
    finding = verdict(probe)
    said += f"\n\n**{finding}.**" if finding else ""
    columns = ("measure", "reached", "chance", "random weights", "pixel statistics only", "spacing only")
    table = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    told = [f"- {note}" for note in notes(probe)]
    return "\n".join([said, "", *table, *(f"| {' | '.join(row)} |" for row in rows), "", *told])
