"""The card and the licences of a trained student's export."""

import re
from dataclasses import replace

from huggingface_hub import ModelCard

from datamodules.evaluation.protocol import Protocol
from export.package.model_card import (
    data_terms,
    prompt_terms,
    training_lines,
    weight_origin,
    write_licences,
    write_model_card,
)
from export.parity.ledger import OK, Row
from metrics.benchmarks import BENCHMARKS
from models.checkpoints.licences import UNKNOWN_LICENCE


def test_the_card_of_a_trained_student_has_the_scores_of_the_file_that_ships_and_its_own_limits(
    exported, tmp_path
):
    own = {
        "weights": "trained",
        "checkpoint": "runs/best.ckpt",
        "checkpoint_sha256": "ab" * 32,
        "frames": None,
    }
    manifest = {**exported.manifest, "source": {**exported.manifest["source"], **own}}
    rows = [
        Row("torch-eager", "", status=OK, frames=9, tasks={"planes/f1": 0.5}),
        Row("onnx-fp32", "", status=OK, frames=9, tasks={"planes/f1": 0.912345, "hc18/validity": 71.5}),
    ]
    path = tmp_path / "MODEL_CARD.md"
    write_model_card(path, manifest, rows, {"float32": {"cosine_min": 0.5}})
    card = ModelCard.load(path)
    results = [(one.dataset_name, one.metric_type, one.metric_value) for one in card.data.eval_results]
    assert results == [("phantom", "planes/f1", 0.9123), ("phantom", "hc18/validity", 71.5)]
    assert {one.dataset_split for one in card.data.eval_results} == {"test"}
    for few in ({"split": "all"}, {"split": "val"}, {"frames": 9}):
        write_model_card(tmp_path / "few.md", {**manifest, "source": {**manifest["source"], **few}}, rows, {})
        assert ModelCard.load(tmp_path / "few.md").data.eval_results is None, (
            "training patients or a few frames"
        )
    assert "- weights: trained, runs/best.ckpt\n- checkpoint SHA-256: abab" in card.text
    assert '- scored on: phantom, split "test"\n- training data: not recorded\n' in card.text
    assert "RANDOM" not in card.text
    assert (
        "**Judged by custom limits**, not the project's defaults: float32 {'cosine_min': 0.5}." in card.text
    )
    assert "custom limits" not in (exported.folder / "MODEL_CARD.md").read_text()


def test_licences_link_the_texts_of_the_terms_that_they_name(exported, tmp_path):
    terms = {
        "teacher": "FetalCLIP",
        "teacher_licence": "CC BY-NC 4.0: no commercial use",
        "start": "random weights",
    }
    trained = {"weights": "trained", "recipe": exported.manifest["source"]["recipe"], "data": "hc18"}
    plain = {**trained, "weights": "random", "data": "phantom"}
    protocol = Protocol.load().digest
    by = "- CC BY 4.0: https://creativecommons.org/licenses/by/4.0/legalcode"
    by_nc = "- CC BY-NC 4.0: https://creativecommons.org/licenses/by-nc/4.0/legalcode"
    for source, links in (
        ({**trained, "training": {"data": "HC18", "corpus": "hc18", **terms}}, [by, by_nc]),
        (
            {
                **trained,
                "training": {"data": "HC18", "corpus": "hc18", "teacher": "none", "start": "random weights"},
            },
            [by],
        ),
        (plain, []),
    ):
        write_licences(tmp_path / "LICENCES.md", {"source": source, "protocol": protocol, "artifacts": {}})
        text = (tmp_path / "LICENCES.md").read_text()
        assert re.findall(r"^- CC BY.*legalcode$", text, flags=re.MULTILINE) == links
        assert ("## Texts" in text) == bool(links)


def test_card_names_what_the_student_was_made_from_or_says_not_recorded(exported):
    recipe = exported.manifest["source"]["recipe"]
    source = {"weights": "trained", "recipe": recipe}
    assert training_lines(source)[:2] == ["training data: not recorded", "teacher: not recorded"]
    assert weight_origin(source)[1:] == [
        f"{words}: not recorded (SHA-256 not recorded); licence: {UNKNOWN_LICENCE}."
        for words in ("Training started from", "Teacher")
    ]
    facts = {"data": "HC18", "teacher": "models.from_checkpoint, path outputs/teachers/hc18.ckpt"}
    source["training"] = facts | {"loss": "losses.SRKDLoss", "start": "random weights"}
    assert training_lines(source)[0] == "training data: HC18"
    (method,) = [line for line in training_lines(source) if line.startswith("method: ")]
    assert all(name in method for name in ("SRKD", "DARK", "arXiv 2603.05421"))
    other = {**source, "training": {**source["training"], "loss": "losses.CLIPLoss"}}
    assert not any(line.startswith("method: ") for line in training_lines(other))
    assert weight_origin(source)[1] == "Training started from: random weights."
    assert weight_origin(source)[2].endswith(f"hc18.ckpt (SHA-256 not recorded); licence: {UNKNOWN_LICENCE}.")
    source["training"] |= {"teacher_sha256": "ab", "teacher_licence": "CC BY-NC 4.0"}
    assert weight_origin(source)[2].endswith("hc18.ckpt (SHA-256 ab); licence: CC BY-NC 4.0.")
    source["training"]["teacher"] = "none"
    assert weight_origin(source)[2] == "Teacher: none."


def test_licences_name_the_runs_corpora_and_whose_prompts_the_heads_hold():
    source = {"weights": "trained", "data": "planes", "training": {"data": "HC18 there", "corpus": "hc18"}}
    lines = data_terms(source)
    assert lines[:2] == ["Trained on: HC18 there.", "Calibrated and scored on: planes."]
    assert [line.split(":")[0] for line in lines[2:]] == ["HC18", "FETAL_PLANES_DB"]
    assert "CC BY 4.0; van den Heuvel" in lines[2]
    unknown = " ".join(data_terms({"weights": "trained", "data": "shards"}))
    assert "Trained on: not recorded." in unknown
    assert "five African countries: CC BY 4.0" in unknown
    assert prompt_terms(Protocol.load().digest) == [
        "Prompts inside the heads: this project's own, Apache-2.0."
    ]
    assert "FetalCLIP are CC BY-NC 4.0" in prompt_terms("0" * 16)[0]


def test_licences_do_not_call_a_users_prompts_ours(monkeypatch):
    own = replace(BENCHMARKS["planes"], name="clinic", classes={"yes": ["a scan"], "no": ["none"]}, own=True)
    monkeypatch.setitem(BENCHMARKS, "clinic", own)
    lines = prompt_terms(Protocol.load().digest)
    assert lines[0] == "Prompts inside the other heads: this project's own, Apache-2.0."
    assert lines[1].startswith("Prompts of clinic: the exporting user's")
    assert len(prompt_terms("0" * 16)) == 2


def test_licences_of_an_int8_file_that_was_trained_further_name_its_teacher_and_data_too(exported):
    plain = {"data": "HC18", "corpus": "hc18", "teacher": "none", "start": "random weights"}
    further = {
        "data": "my table",
        "corpus": "table",
        "teacher": "FetalCLIP",
        "teacher_licence": "CC BY-NC 4.0",
    }
    source = {**exported.manifest["source"], "weights": "trained", "data": "hc18", "training": plain}
    assert "FetalCLIP" not in " ".join(weight_origin(source))
    source["int8_training"] = {**further, "start": "random weights"}
    (line,) = (line for line in weight_origin(source) if "FetalCLIP" in line)
    assert line.startswith("The int8 file's weights were trained further. Teacher: FetalCLIP")
    assert "CC BY-NC 4.0" in line
    assert "The int8 file was trained further on: my table." in data_terms(source)
