"""What an export holds, checked with the libraries that an app would use."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from tokenizers import Tokenizer

from datamodules.evaluation.dataset import EvaluationDataset
from datamodules.evaluation.protocol import Protocol
from datamodules.pairs.image_reading import read_image
from export.graphs.contract import metadata_of
from export.graphs.onnx_graph import onnx_interface, quiet
from export.graphs.pixel_graph import PixelEncoder
from export.graphs.text_artifact import GOLDEN_TEXTS, tokenizer_files
from export.int8.int8_variants import write_int8_variants
from export.package.manifest import artifact_entry
from export.package.model_card import write_model_card
from export.package.readme import write_readme
from export.parity.frames import calibration_pixels, evaluation_frames
from export.variants import ExportContext, write_onnx_variants, write_resize_variant
from models import Preprocessing, build_tokenizer, fused_copy
from models.preprocessing import resize_padded
from models.student.onnx_files import onnx_runner
from models.zero_shot import age_embeddings, class_embeddings

CLIENTS = {
    "python": "example_client.py",
    "swift": "StudentReader.swift",
    "kotlin": "StudentReader.kt",
    "javascript": "reader.mjs",
}


def test_onnx_file_is_single_static_and_carries_the_contract(exported):
    path = exported.artifact("onnx-fp32")
    assert not list(exported.folder.glob("*.data"))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert next(entry.version for entry in model.opset_import if entry.domain == "") >= 20
    # The newest that ONNX Runtime 1.20 reads, which the deploy guide pins on Android.
    files = {path.name: onnx.load(path).ir_version for path in exported.folder.glob("*.onnx")}
    assert {"image_encoder.onnx", "image_encoder_int8.onnx", "planes_classifier.onnx"} <= set(files)
    assert max(files.values()) <= 10, files
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 64, 64]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["sonodistill.contract"]) == exported.manifest["contract"]
    assert metadata["sonodistill.contract_sha256"] == exported.manifest["contract_sha256"]
    assert "not a medical device" in metadata["sonodistill.note"]
    assert "random weights" in metadata["sonodistill.weights_licence"]


def test_image_encoder_leaves_the_text_tower_behind(exported, student):
    image = (
        sum(p.numel() for p in fused_copy(student).trunk.parameters())
        + student.image_projection.weight.numel()
    )
    weights = sum(int(np.prod(t.dims)) for t in onnx.load(exported.artifact("onnx-fp32")).graph.initializer)
    assert weights == pytest.approx(image, rel=0.02)


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-int8"])
def test_every_file_passes_the_documented_unit_test(exported, golden, name):
    run, inputs = onnx_runner(exported.artifact(name)), golden[1]
    content = json.loads((exported.folder / "golden" / "golden.json").read_text())
    own = content["variants"].get(name, content)
    assert len(inputs) == len(own["rows"]) >= 4
    assert set(content["variants"]) == {"onnx-int8"}, "smaller weights have answers of their own"
    wanted = np.array([row["embedding"] for row in own["rows"]])
    found, inverted = run(inputs), run(255 - inputs)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-4)
    assert (found * wanted).sum(axis=1).min() >= own["cosine_min_from_input"]
    assert (inverted * wanted).sum(axis=1).max() < own["cosine_min_from_frame"]
    for head in ("planes", "subplanes"):
        description, vectors, _ = exported.head(head)
        odds = np.exp(100 * wanted @ vectors.T)
        answers = odds / odds.sum(axis=1, keepdims=True)
        for row, answer in zip(own["rows"], answers, strict=True):
            assert row[head] == pytest.approx(dict(zip(description["labels"], answer, strict=True)), abs=1e-4)


def test_golden_frames_are_not_yet_padded_and_give_the_inputs(exported, golden):
    sizes = []
    for row in golden[0]:
        frame = Image.open(exported.folder / "golden" / row["frame"]).convert("RGB")
        side = max(frame.size)
        square = Image.new("RGB", (side, side))
        square.paste(frame, ((side - frame.width) // 2, (side - frame.height) // 2))
        resized = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(
            resized, np.asarray(Image.open(exported.folder / "golden" / row["input"]))
        )
        sizes.append(frame.size)
    assert any(width != height for width, height in sizes)


def test_classifier_file_gives_the_golden_probabilities_and_knows_its_labels(exported, golden):
    path, (rows, inputs) = exported.artifact("onnx-planes"), golden
    labels = json.loads(onnx_interface(path)[0]["sonodistill.labels"])
    for row, found in zip(rows, onnx_runner(path)(inputs), strict=True):
        assert dict(zip(labels, found.tolist(), strict=True)) == pytest.approx(row["planes"], abs=1e-3)


def test_heads_are_the_models_own_vectors(exported, student):
    protocol = Protocol.load()
    description, vectors, _ = exported.head("planes")
    assert description["labels"] == list(protocol.planes)
    np.testing.assert_allclose(vectors, class_embeddings(student, protocol.planes).numpy(), atol=1e-6)
    description, vectors, basis = exported.head("ages")
    assert description["spacings_mm_per_px"] == ["0.30"]
    expected = age_embeddings(student, protocol.biometry, ["0.30"]).vectors.numpy()
    expected -= expected.mean(axis=1, keepdims=True)  # a constant of all ages decides nothing
    assert vectors.shape == (1, 175, 32)
    np.testing.assert_allclose(vectors @ basis, expected, atol=1e-3)  # stored in float16
    assert exported.manifest["heads"]["planes"]["labels"] == list(protocol.planes)
    assert "prompts" not in exported.manifest["heads"]["ages"]


def test_text_encoder_agrees_and_its_golden_tokens_follow_the_shipped_vocabulary(exported, student):
    rows = json.loads((exported.folder / "text" / "text_golden.json").read_text())["rows"]
    session = onnxruntime.InferenceSession(
        str(exported.artifact("onnx-text")), providers=["CPUExecutionProvider"]
    )
    tokens = np.array([row["tokens"] for row in rows])
    found = session.run(None, {"tokens": tokens})[0]
    with torch.no_grad():
        expected = student.encode_text(student.tokenize([row["text"] for row in rows])).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    vocabulary = (exported.folder / "text" / "vocabulary.txt").read_text().split()
    entries = exported.manifest["artifacts"]
    assert {"text/vocabulary.txt", "text/tokenizer.json", "text/text_golden.json"} <= set(entries)
    read = " ".join(vocabulary[token] for token in rows[0]["tokens"] if token)
    assert read.startswith("<start> ultrasound of the fetal brain")


def test_card_and_licences_say_what_matters(exported):
    card = (exported.folder / "MODEL_CARD.md").read_text()
    assert "Not a medical device" in card
    assert "RANDOM" in card
    packages = r"coreml-fp16, coreml-gray, coreml-int8, coreml-planes"
    assert re.search(rf"^\| {packages} \| NOT RUN .*parity\.json", card, re.M), (
        "one row for all that did not run"
    )
    assert "teacher" not in card
    licences = (exported.folder / "LICENCES.md").read_text()
    assert "Phantom: simulated by this project" in licences
    assert "HC18" not in licences, "it had no part in this"
    assert "this project's own, Apache-2.0" in licences
    metadata = ModelCard.load(exported.folder / "MODEL_CARD.md").data
    assert ModelCard.load(exported.folder / "README.md").data.to_dict() == metadata.to_dict(), (
        "the Hub's card"
    )
    assert (metadata.license, metadata.license_link) == ("other", "LICENCES.md")
    assert metadata.eval_results is None, "random weights have no scores"
    size = exported.artifact("heads").stat().st_size
    assert f"| heads | `heads.safetensors` | {size / 1e6:.2f} |" in card


def test_the_texts_and_the_script_are_hashed_too(exported):
    written = {
        path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()
    }
    files = {entry["file"] for entry in exported.manifest["artifacts"].values()}
    left = {
        name for name in written if not any(name == file or name.startswith(f"{file}/") for file in files)
    }
    assert left == {"manifest.json"}


def test_everyone_may_read_the_folder(exported):
    for path in exported.folder.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_sizes_in_the_manifest_are_those_of_files_and_whole_packages(exported):
    for entry in exported.manifest["artifacts"].values():
        place = exported.folder / entry["file"]
        files = [path for path in (place, *place.rglob("*")) if path.is_file()]
        assert entry["bytes"] == sum(len(path.read_bytes()) for path in files), entry["file"]


def test_every_onnx_entry_names_its_files_own_output(exported):
    entries = {
        name: entry for name, entry in exported.manifest["artifacts"].items() if entry["kind"] == "onnx"
    }
    assert set(entries) == {
        "onnx-fp32",
        "onnx-planes",
        "onnx-subplanes",
        "onnx-int8",
        "onnx-text",
        "onnx-resize",
    }
    for name, entry in entries.items():
        (output,) = onnx.load(exported.artifact(name)).graph.output
        assert entry["output"] == output.name, name


def test_the_graph_with_resize_takes_frames_of_any_size(exported):
    session = onnxruntime.InferenceSession(
        str(exported.artifact("onnx-resize")), providers=["CPUExecutionProvider"]
    )
    plain = onnxruntime.InferenceSession(
        str(exported.artifact("onnx-fp32")), providers=["CPUExecutionProvider"]
    )
    generator = np.random.default_rng(0)
    for height, width in [(541, 800), (300, 99), (64, 64), (20, 33)]:
        frame = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
        found = session.run(None, {"frame": frame})[0][0]
        prepared = resize_padded(frame, exported.preprocessing).transpose(2, 0, 1)[None].astype(np.float32)
        right, mirrored = (
            1 - found @ plain.run(None, {"image": image})[0][0]
            for image in (prepared, np.ascontiguousarray(prepared[..., ::-1]))
        )
        assert right < 1e-4
        assert right < 0.1 * mirrored


@pytest.mark.parametrize("name", ["clip", "fetal"])
def test_the_tokenizers_files_alone_give_the_models_tokens(name, tmp_path):
    contract = Preprocessing(64, (0.0,) * 3, (1.0,) * 3, tokenizer=name, context_length=40)
    files = {path.name for path in tokenizer_files(contract, tmp_path)}
    texts = [*GOLDEN_TEXTS, " It's  a BPD/HC of 21.5mm \u2014 don\u2019t \n Größe", "plane " * 60]
    expected = build_tokenizer(contract)(texts).tolist()
    whole = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [whole.encode(text).ids for text in texts] == expected
    if name == "clip":
        assert files == {"tokenizer.json", "vocab.json", "merges.txt", "LICENSE-CLIP.txt"}
        vocabulary = json.loads((tmp_path / "vocab.json").read_text())
        merges = (tmp_path / "merges.txt").read_text().splitlines()
        assert len(vocabulary) == 49408
        # 256 bytes, each also at the end of a word, a token a merge, start and end
        assert len(merges) - 1 == 49408 - 512 - 2
        assert {merge.replace(" ", "") for merge in merges[1:]} <= set(vocabulary)
        tokens = [vocabulary[f"{word}</w>"] for word in ["ultrasound", "of", "the", "fetal", "brain"]]
        assert expected[0][1:6] == tokens
    else:
        assert files == {"tokenizer.json", "vocabulary.txt"}


def test_files_of_a_saved_tokenizer_are_told_apart_by_their_whole_names(tmp_path):
    saved, folder = tmp_path / "saved", tmp_path / "text"
    for place in (saved, folder):
        place.mkdir()
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "weights.bin"):
        (saved / name).write_text(name)
    files = tokenizer_files(Preprocessing(64, (0.0,) * 3, (1.0,) * 3, tokenizer=f"hf:{saved}"), folder)
    names = {artifact_entry(path, tmp_path)["file"] for path in files}
    assert names == {
        f"text/tokenizer/{kind}" for kind in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    }


@pytest.mark.parametrize("dynamic", [False, True])
def test_tracing_is_the_recorded_fallback(student, tmp_path, monkeypatch, dynamic):
    export = torch.onnx.export

    def broken(*given, dynamo, **named):
        if dynamo:
            raise RuntimeError("no export today")
        return export(*given, dynamo=dynamo, **named)

    monkeypatch.setattr(torch.onnx, "export", broken)
    context = ExportContext(tmp_path, PixelEncoder(fused_copy(student)).eval(), {}, {"a": "b"})
    with quiet(context.warnings):
        write_onnx_variants(context, dynamic_batch=dynamic)
    assert any("traced instead: RuntimeError: no export today" in line for line in context.warnings)
    frames = torch.randint(0, 256, (3, 3, 64, 64)).float()
    with torch.no_grad():
        expected = context.encoder(frames).numpy()
    file = context.folder / "image_encoder.onnx"
    np.testing.assert_allclose(onnx_runner(file)(frames.numpy()), expected, atol=1e-5)
    (tensor,) = onnx.load(file).graph.input
    assert bool(tensor.type.tensor_type.shape.dim[0].dim_param) == dynamic
    assert onnx_interface(file)[0]["a"] == "b"
    assert onnx_interface(file)[1] == ("embedding", 0 if dynamic else 1)


def test_the_folder_stands_alone(exported):
    readme = (exported.folder / "README.md").read_text()
    spacing = exported.manifest["contract"]["geometry"]["resize"]
    assert all(text in readme for text in (spacing, "softmax(cosine_scale * vectors @ embedding)"))
    for language, name in CLIENTS.items():
        assert f"```{language}" in readme
        assert (exported.folder / name).is_file()
    links = re.findall(r"\]\(([^)]+)\)", readme) + re.findall(r"^\| `([^`]+)`", readme, flags=re.MULTILINE)
    assert all((exported.folder / link).exists() for link in links), links
    assert "Apache License" in (exported.folder / "LICENSE-APACHE-2.0.txt").read_text()


def test_no_file_names_folders_of_the_machine_that_exported_it(exported):
    files = [path for path in exported.folder.rglob("*") if path.is_file()]
    for place in (str(Path(__file__).parents[3]).encode(), b"site-packages"):
        assert [path.name for path in files if place in path.read_bytes()] == []


def test_labels_are_text_in_the_readme(exported, tmp_path):
    heads = json.loads(json.dumps(exported.manifest["heads"]))
    (name, head), *_ = heads.items()
    head["labels"] = ['<img src="x">', "[a](b)\n# c"]
    write_readme(tmp_path / "README.md", {**exported.manifest, "heads": {name: head}}, [])
    (line,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if "(b)" in line]
    assert '(&lt;img src="x"&gt;, \\[a](b) # c): ' in line


@pytest.mark.parametrize(
    ("answers", "swift", "kotlin"), [({"age_drop": 1.5}, "1.5", "1.5"), ({"age_drop": None}, "nil", "null")]
)
def test_readme_starts_the_readers_with_the_drop_of_the_calibration(
    exported, tmp_path, answers, swift, kotlin
):
    path = tmp_path / "README.md"
    write_readme(path, {**exported.manifest, "answers": answers}, [])
    assert f"ageDrop: {swift})\n" in path.read_text()
    assert f"ageDrop = {kotlin})\n" in path.read_text()
    write_readme(path, {name: value for name, value in exported.manifest.items() if name != "answers"}, [])
    assert "ageDrop: nil)\n" in path.read_text(), "without a calibration"


def test_the_papers_of_an_export_without_an_age_table_promise_no_age(exported, tmp_path):
    heads = {name: head for name, head in exported.manifest["heads"].items() if name != "ages"}
    manifest, readme, card = (
        {**exported.manifest, "heads": heads},
        tmp_path / "README.md",
        tmp_path / "CARD.md",
    )
    write_readme(readme, manifest, [])
    write_model_card(card, manifest, [], {})
    for path, own in ((readme, "README.md"), (card, "MODEL_CARD.md")):
        given, found = (exported.folder / own).read_text(), path.read_text()
        assert re.search(r"(?i)gestational age|student\.age|no_age", given)
        assert not re.search(r"(?i)gestational age|student\.age|no_age|,,|` *,+ *\|", found)


def test_manifest_records_versions_and_no_fallback_was_needed(exported):
    assert torch.__version__.startswith(exported.manifest["versions"]["torch"])
    assert not [line for line in exported.manifest["warnings"] if "traced instead" in line]


def test_an_open_batch_runs_several_sizes_and_int8_keeps_it(student, tmp_path):
    metadata = metadata_of(student)
    context = ExportContext(tmp_path, PixelEncoder(fused_copy(student)).eval(), {}, metadata)
    write_onnx_variants(context, dynamic_batch=True)
    frames = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        expected = context.encoder(frames).numpy()
    run = onnx_runner(tmp_path / "image_encoder.onnx")
    write_resize_variant(context)
    assert onnx_interface(context.folder / context.artifacts["onnx-resize"]["file"])[1] == ("embedding", 1)
    assert context.artifacts["onnx-resize"]["batch"] == 1
    for batch in (1, 3):
        np.testing.assert_allclose(run(frames[:batch].numpy()), expected[:batch], atol=1e-5)
    write_int8_variants(context, ["onnx-int8"], frames[:2].numpy())
    assert context.artifacts["onnx-int8"]["batch"] == "any"
    assert context.artifacts["onnx-int8"]["ranges"] == "calibrated on 2 frames"
    assert onnx_runner(tmp_path / context.artifacts["onnx-int8"]["file"])(frames.numpy()).shape == (3, 32)


def test_frames_are_the_evaluation_pixels(corpus, student):
    frames = evaluation_frames(corpus, student.preprocessing, "test", limit=5)
    found = np.concatenate(list(frames.batches()))
    assert found.min() >= 0
    assert found.max() <= 255
    np.testing.assert_array_equal(found, found.round())
    dataset = EvaluationDataset(corpus.evaluation_records("hc18", "test"), student.preprocessing)
    expected = {
        sample["record"].name: sample["image"] for sample in map(dataset.__getitem__, range(len(dataset)))
    }
    mean, std = (
        np.array(v).reshape(3, 1, 1) for v in (student.preprocessing.mean, student.preprocessing.std)
    )
    row = frames.rows["hc18"][0]
    normalised = (found[row] / 255 - mean) / std
    np.testing.assert_allclose(normalised, expected[frames.records[row].name].numpy(), atol=1e-6)


def test_calibration_takes_training_frames_evenly_and_never_sees_test_patients(corpus, student):
    records = corpus.split("train")
    chosen = [
        records[round(place * (len(records) - 1) / 5)] for place in range(6)
    ]  # evenly, both ends included
    wanted = [resize_padded(read_image(record.image), student.preprocessing) for record in chosen]
    for pixels, image in zip(calibration_pixels(corpus, student.preprocessing, 6), wanted, strict=True):
        np.testing.assert_array_equal(pixels, np.broadcast_to(image.T, (3, 64, 64)).swapaxes(1, 2))
    train = {record.patient for record in records}
    assert not train & {record.patient for record in corpus.split("test")}
