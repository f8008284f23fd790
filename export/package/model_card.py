"""The model card and the licences that an export folder carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.corpora.catalogue import CORPORA
from datamodules.evaluation.protocol import Protocol
from export.parity.ledger import Row, markdown_ledger
from models.checkpoints.inspection import architecture_of
from models.checkpoints.licences import FETALCLIP_PROMPTS, licence_of

NOT_RECORDED = "not recorded"
RANDOM_START = "random weights"
METHODS = {
    "losses.SRKDLoss": "Selective Repulsive Knowledge Distillation (SRKD), which the third version of its paper names "
    "DARK, Diagonal-Anchored Repulsive Knowledge Distillation: Saeed, Maani and Yaqub, 2026, arXiv 2603.05421"
}
"""Loss -> the method that it is, and the paper of it."""
OWN_TEACHERS = "outputs/teachers/"  # trained by this project, from nothing published
MODEL_CARD, LICENCES = "MODEL_CARD.md", "LICENCES.md"
# data preset -> terms; a preset of one public corpus has its name
DATA_TERMS = {"phantom": "Phantom: simulated by this project, free of patients; Apache-2.0"} | {
    name: f"{corpus.title}: {corpus.licence}; {corpus.citation}; {corpus.source}"
    for name, corpus in CORPORA.items()
}


def training_lines(source: Mapping[str, Any]) -> list[str]:
    """Say what a student was made from, as its run recorded it, line by line."""
    if source["weights"] != "trained":
        return []
    facts = source.get("training") or {}
    names = {"data": "training data", "teacher": "teacher", "loss": "loss", "start": "training started from"}
    lines = [f"{words}: {facts.get(key, NOT_RECORDED)}" for key, words in names.items()]
    return [*lines, *(f"method: {METHODS[loss]}" for loss in [facts.get("loss")] if loss in METHODS)]


def weight_origin(source: Mapping[str, Any]) -> list[str]:
    """Say whose terms the weights fall under, line by line.

    Args:
        source: Where the weights come from (the manifest's ``source``): ``weights``, ``recipe`` and, where the run
            recorded it, ``training``.
    """
    name, facts = architecture_of(source["recipe"]), source.get("training") or {}
    if source["weights"] != "trained":
        return [f"Architecture `{name}` with random weights: no published weights are inside."]
    lines = [f"Student architecture: `{name}`."]
    start, teacher = facts.get("start"), facts.get("teacher")
    if start is None:
        terms = licence_of(name)
        lines.append(
            f"What training started from is {NOT_RECORDED}; published {name} weights pass on: {terms}."
        )
    else:
        terms = "" if start == RANDOM_START else f"; terms of published weights pass on: {licence_of(name)}"
        lines.append(f"Training started from {start}{terms}.")
    if teacher is None:
        terms = licence_of("FetalCLIP")
        lines.append(f"The teacher is {NOT_RECORDED}; if it was FetalCLIP, note its terms: {terms}.")
    else:
        own = teacher == "none" or OWN_TEACHERS in teacher
        terms = "" if own else f"; if it is FetalCLIP, note its terms: {licence_of('FetalCLIP')}"
        lines.append(f"Teacher: {teacher}{terms}.")
    return lines


def made_how(source: Mapping[str, Any]) -> str:
    """Say in a few words how a student came by its weights."""
    if source["weights"] != "trained":
        return "with random weights, not trained at all"
    teacher = (source.get("training") or {}).get("teacher")
    if teacher is None:
        return f"trained; whether it was distilled from a teacher is {NOT_RECORDED}"
    return "trained without a teacher" if teacher == "none" else f"distilled from a teacher ({teacher})"


def data_terms(source: Mapping[str, Any]) -> list[str]:
    """Say what data a student has seen, and their terms, line by line.

    Args:
        source: The manifest's ``source``: ``weights``, ``data`` (the preset that judged) and, where it is recorded,
            ``training`` with ``data`` (in words) and ``corpus`` (the preset).
    """
    facts = source.get("training") or {}
    lines, presets = [f"Calibrated and scored on: {source['data']}."], [source["data"]]
    if source["weights"] == "trained":
        lines.insert(0, f"Trained on: {facts.get('data', NOT_RECORDED)}.")
        presets.insert(0, facts.get("corpus"))
    if not all(preset in DATA_TERMS for preset in presets):
        lines.append(
            "Which public sets those hold is not known here (shards: see the manifest.json beside them). All:"
        )
        presets = list(DATA_TERMS)
    return [*lines, *(DATA_TERMS[preset] for preset in dict.fromkeys(presets))]


def prompt_terms(protocol: str) -> str:
    """Say whose terms the prompts inside the heads fall under.

    Args:
        protocol: Digest of the zero-shot protocol.
    """
    if protocol == Protocol.load().digest:
        return "Prompts inside the heads: this project's own, Apache-2.0."
    return (
        f"Prompts inside the heads: not this project's own (protocol {protocol}). Those imported from FetalCLIP are "
        f"{FETALCLIP_PROMPTS}; the heads pass this on."
    )


def write_licences(path: Path, source: Mapping[str, Any], protocol: str) -> None:
    """Write LICENCES.md: the terms of code, weights, prompts and data involved.

    Args:
        path: File to write.
        source: Where the weights come from (the manifest's ``source``).
        protocol: Digest of the zero-shot protocol.
    """
    lines = [
        "# Licences",
        "",
        "## Code",
        "",
        "SonoDistill, and this folder's scripts: Apache-2.0.",
        "",
        "## Weights",
        "",
    ]
    lines += [f"- {line}" for line in weight_origin(source)]
    lines += ["", "## Prompts", "", f"- {prompt_terms(protocol)}", "", "## Data", ""]
    lines += [f"- {line}" for line in data_terms(source)]
    lines += ["", "The golden frames are simulated.", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


USE_AND_LIMITS = """## Intended use

Research on live-scan assistance: naming the standard plane in view, estimating gestational age from a head
plane with a known pixel spacing, searching images. By people who know how to read fetal ultrasound.

## Limits

- Standard planes, one foetus, second and third trimester. Ages are read between 14 and 39 weeks.
- Burned-in text, callipers and vendor overlays can leak the answer; a live stream has none of them.
- A plane outside the listed classes is still given one of them: there is no "none of these".
- Scores on simulated frames say nothing about patients. Machines, operators and populations that are not in
  the training data shift the results.
- The pixel spacing must be right: gestational age reads the size of the head from it.
"""


def write_model_card(
    path: Path,
    *,
    source: dict[str, Any],
    contract: dict[str, Any],
    artifacts: dict[str, dict[str, Any]],
    rows: Sequence[Row],
    protocol: str,
) -> None:
    """Write MODEL_CARD.md.

    Args:
        path: File to write.
        source: Where the weights come from (the manifest's ``source``).
        contract: The preprocessing contract.
        artifacts: The manifest's artifacts.
        rows: The parity ledger.
        protocol: Digest of the zero-shot protocol.
    """
    tower, side = architecture_of(source["recipe"]), contract["preprocessing"]["image_size"]
    trained = source["weights"] == "trained"
    sizes = [
        f"| {name} | {' '.join(f'`{entry[key]}`' for key in ('file', 'vectors') if key in entry)} "
        f"| {entry['bytes'] / 1e6:.2f} |"
        for name, entry in artifacts.items()
    ]
    made_from = "".join(f"- {line}\n" for line in training_lines(source))
    text = f"""# Model card

**Research software. Not a medical device.** It must not be used for diagnosis, screening or treatment, nor to
reassure or alarm a patient. Nothing here has been assessed by any regulator.

## What it is

An image encoder for fetal ultrasound (`{tower}`, input {side} x {side} pixels), {made_how(source)}; with
zero-shot heads for standard planes, brain sub-planes and gestational age.

- weights: {"trained, " + str(source["checkpoint"]) if trained else "RANDOM, for measuring size and speed"}
- checkpoint SHA-256: {source["checkpoint_sha256"] or "none"}
- scored on: {source["data"]}, split "{source["split"]}"
{made_from}- zero-shot protocol: {protocol}

{USE_AND_LIMITS}
## Scores and parity

Task metrics are zero-shot, with the heads of this folder, on the frames counted in each row.

{markdown_ledger(list(rows))}

## Files

| artifact | file | MB |
|---|---|---|
{chr(10).join(sizes)}

## Licences

{chr(10).join("- " + line for line in [*weight_origin(source), prompt_terms(protocol)])}
- Details: LICENCES.md
"""
    path.write_text(text, encoding="utf-8")
