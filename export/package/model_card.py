"""The model card and the licences of an export folder."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from datamodules.corpora.public import CORPORA
from datamodules.evaluation.protocol import Protocol
from export.graphs.text_artifact import CLIP_LICENCE
from export.parity.ledger import Row, markdown_ledger
from metrics.benchmarks import BENCHMARKS
from models.checkpoints.inspection import tower_name
from models.checkpoints.licences import FETALCLIP_PROMPTS, unidentified_licence

NOT_RECORDED = "not recorded"
RANDOM_START = "random weights"
METHODS = {
    "losses.SRKDLoss": "Selective Repulsive Knowledge Distillation (SRKD), which the third version of its paper names "
    "DARK, Diagonal-Anchored Repulsive Knowledge Distillation: Saeed, Maani and Yaqub, 2026, arXiv 2603.05421"
}
"""Loss -> method and paper."""
MODEL_CARD, LICENCES = "MODEL_CARD.md", "LICENCES.md"
LICENCE_LINKS = {
    name: f"https://creativecommons.org/licenses/{path}/4.0/legalcode"
    for name, path in (("CC BY 4.0", "by"), ("CC BY-NC 4.0", "by-nc"))
}
TEMPLATE = Path(__file__).parent / "model_card.md.jinja"
# data preset -> terms; a preset of one public corpus has its name
DATA_TERMS = {"phantom": "Phantom: simulated by this project, free of patients; Apache-2.0"} | {
    name: f"{corpus.title}: {corpus.licence}; {corpus.citation}; {corpus.source}"
    for name, corpus in CORPORA.items()
}

# `source` below is the manifest's: `weights` ("trained" or "random"), `recipe`, `data` (the preset that scores) and,
# where the run recorded it, `training` (see `experiments.runs.run_record.training_facts`).
Source = Mapping[str, Any]


def as_text(words: str) -> str:
    """Return a name from data as text in Markdown: no markup, no further line."""
    return html.escape(" ".join(words.split()), quote=False).replace("[", "\\[")


def _training(source: Source, key: str) -> str:
    return as_text(str((source.get("training") or {}).get(key, NOT_RECORDED)))


def training_lines(source: Source) -> list[str]:
    """Return what a student was trained on and from, line by line; none for random weights."""
    if source["weights"] != "trained":
        return []
    names = {"data": "training data", "teacher": "teacher", "loss": "loss", "start": "training started from"}
    lines = [f"{words}: {_training(source, key)}" for key, words in names.items()]
    method = METHODS.get(_training(source, "loss"))
    return [*lines, f"method: {method}"] if method else lines


def weight_origin(source: Source) -> list[str]:
    """Return the terms that the weights fall under, line by line."""
    name = as_text(tower_name(source["recipe"])).replace("`", "")
    if source["weights"] != "trained":
        return [f"Architecture `{name}` with random weights: no published weights are inside."]
    start, teacher = _training(source, "start"), _training(source, "teacher")
    inherited = "" if start == RANDOM_START else _terms(source, "start", name)
    passed_on = "" if teacher == "none" else _terms(source, "teacher", "")
    lines = [f"Training started from: {start}{inherited}.", f"Teacher: {teacher}{passed_on}."]
    if facts := source.get("int8_training"):
        _, *further = weight_origin({**source, "training": facts, "int8_training": None})
        lines += [f"The int8 file's weights were trained further. {line}" for line in further]
    return [f"Student architecture: `{name}`.", *lines]


def _terms(source: Source, role: str, architecture: str) -> str:
    """Return digest and licence of a file, as the run recorded them when it started."""
    digest, licence = _training(source, f"{role}_sha256"), _training(source, f"{role}_licence")
    if licence == NOT_RECORDED:
        licence = unidentified_licence(architecture)
    return f" (SHA-256 {digest}); licence: {licence}"


def data_terms(source: Source) -> list[str]:
    """Return the data of training and scoring and their terms, line by line."""
    lines, presets = [f"Calibrated and scored on: {source['data']}."], [source["data"]]
    if source["weights"] == "trained":
        lines.insert(0, f"Trained on: {_training(source, 'data')}.")
        presets.insert(0, _training(source, "corpus"))
        if facts := source.get("int8_training"):
            further = {"training": facts}
            lines.insert(1, f"The int8 file was trained further on: {_training(further, 'data')}.")
            presets.append(_training(further, "corpus"))
    if not all(preset in DATA_TERMS for preset in presets):
        lines.append(
            "The datasets contained in this data are not recorded (for shards, see manifest.json). "
            "Terms of all supported datasets:"
        )
        presets = list(DATA_TERMS)
    return [*lines, *(DATA_TERMS[preset] for preset in dict.fromkeys(presets))]


def prompt_terms(protocol: str) -> list[str]:
    """Return the terms of the prompts in the heads, line by line, from the digest of their protocol."""
    own = [one.name for one in BENCHMARKS.values() if one.classes]
    further = (
        [f"Prompts of {', '.join(own)}: the exporting user's; their terms are not recorded."] if own else []
    )
    if protocol == Protocol.load().digest:
        return [
            f"Prompts inside the {'other ' if own else ''}heads: this project's own, Apache-2.0.",
            *further,
        ]
    return [
        f"Prompts inside the heads: not this project's own (protocol {protocol}). Those imported from FetalCLIP are "
        f"{FETALCLIP_PROMPTS}; the heads pass this on.",
        *further,
    ]


def write_licences(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write LICENCES.md: the terms of code, weights, prompts, data and CLIP's tokenizer."""
    source = manifest["source"]
    sections = {
        "Code": ["SonoDistill, and this folder's programs: Apache-2.0 (LICENSE-APACHE-2.0.txt)."],
        "Weights": weight_origin(source),
        "Prompts": prompt_terms(manifest["protocol"]),
        "Data": [*data_terms(source), "The golden frames are simulated."],
    }
    if (clip := f"text/{CLIP_LICENCE.name}") in manifest["artifacts"]:
        sections["Tokenizer"] = [f"Vocabulary and merges in text/: OpenAI's CLIP, MIT ({clip})."]
    named = " ".join(line for lines in sections.values() for line in lines)
    if links := [f"{name}: {link}" for name, link in LICENCE_LINKS.items() if name in named]:
        sections["Texts"] = links
    parts = ["# Licences"]
    parts += [
        f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) for title, lines in sections.items()
    ]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def card_data(manifest: Mapping[str, Any], rows: Sequence[Row]) -> ModelCardData:
    """Return the metadata that the Hugging Face Hub reads: terms, tags, and the scores of a complete test split."""
    source = manifest["source"]
    trained = source["weights"] == "trained"
    scores = next((row.tasks for row in rows if row.variant == "onnx-fp32"), {}) if trained else {}
    complete = source["split"] == "test" and source["frames"] is None  # others are no result to publish
    results = [
        EvalResult(
            "zero-shot-image-classification", source["data"], source["data"], name, round(value, 4),
            dataset_split="test",
        )
        for name, value in scores.items()
        if complete
    ]  # fmt: skip
    kinds = {entry["kind"] for entry in manifest["artifacts"].values()}
    formats = [kind for kind in ("onnx", "coreml") if kind in kinds]
    return ModelCardData(
        license="other",
        license_name="see-licences",
        license_link=LICENCES,
        pipeline_tag="zero-shot-image-classification",
        tags=["medical", "ultrasound", "fetal-ultrasound", *formats],
        model_name=tower_name(source["recipe"]),
        eval_results=results or None,
    )


def write_model_card(
    path: Path, manifest: Mapping[str, Any], rows: Sequence[Row], custom_gates: Mapping[str, Any]
) -> None:
    """Write MODEL_CARD.md.

    Args:
        path: File to write.
        manifest: Content of the export's manifest.
        rows: The parity ledger.
        custom_gates: The limits, where they are not this project's own.
    """
    source = manifest["source"]
    trained = source["weights"] == "trained"
    heads = [one.title for one in BENCHMARKS.values() if one.kind == "classification"]
    card = ModelCard.from_template(
        card_data(manifest, rows),
        template_path=str(TEMPLATE),
        tower=tower_name(source["recipe"]),
        manifest=manifest,
        benchmarks=", ".join(title.removesuffix(" F1") for title in heads),
        weights=f"trained, {source['checkpoint']}" if trained else "RANDOM, for measuring size and speed",
        source=source,
        training=training_lines(source),
        custom_gates=custom_gates,
        ledger=markdown_ledger(rows),
        licences=[*weight_origin(source), *prompt_terms(manifest["protocol"])],
    )
    card.save(path)
