"""Weights, prompts and data are identified by content, wherever they lie and however they are given."""

from __future__ import annotations

import hashlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from jsonargparse import Namespace

from datamodules.evaluation.protocol import DEFAULT_PROTOCOL, Protocol
from experiments.commands.data import main
from experiments.config import resolve
from experiments.runs import input_digests
from experiments.runs.input_digests import (
    content_digest,
    content_digests,
    corpus_digests,
    data_places,
    place_digests,
    shard_corpora,
)
from experiments.runs.run_record import cautions, make_record
from lightning_modules.distillation import RUN_RECORD


@pytest.fixture(autouse=True)
def _no_folders(monkeypatch):
    for name in ("HC18_ROOT", "PLANES_ROOT", "SHARDS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shards(tiny_hc18, tiny_planes, tmp_path):
    """Data settings of a run with ``SHARDS=``, ``HC18_ROOT=`` and ``PLANES_ROOT=``."""
    out = tmp_path / "shards"
    main(["shards", str(tmp_path), str(out), "--samples-per-shard=20"])
    return {"urls": out, "hc18_root": tiny_hc18, "planes_root": tiny_planes}


def arguments(folders):
    return [f"--data.init_args.{name}={folder}" for name, folder in folders.items()]


def test_the_phantom_has_no_digest_and_needs_no_data():
    assert corpus_digests("phantom", ["--data.root=/nowhere"]) == {}
    assert shard_corpora(resolve("srkd", "phantom", []).data) == {}


def test_a_corpus_is_identified_by_its_table(tiny_hc18, tmp_path, monkeypatch):
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))
    digests = corpus_digests("hc18", [])
    moved = tiny_hc18.rename(tmp_path / "moved")
    assert corpus_digests("hc18", [f"--data.root={moved}"]) == digests == {"HC18_ROOT": digests["HC18_ROOT"]}
    table = moved / "training_set_pixel_size_and_HC.csv"
    table.write_text(table.read_text().replace("80.0", "81.0"))
    assert corpus_digests("hc18", ["--data.init_args.root", str(moved)]) != digests


def test_a_corpus_that_no_record_describes_is_identified_by_the_names_of_its_images(tiny_hc18, tmp_path):
    """As one that CONTRIBUTING.md adds: with a preset, a variable, and no `Corpus`."""
    digests = place_digests({"CLINIC_ROOT": str(tiny_hc18)})
    moved = tiny_hc18.rename(tmp_path / "moved")
    assert place_digests({"CLINIC_ROOT": str(moved)}) == digests
    next(moved.rglob("*.png")).unlink()
    assert place_digests({"CLINIC_ROOT": str(moved)}).keys() == digests.keys()
    assert place_digests({"CLINIC_ROOT": str(moved)}) != digests


def test_shards_are_identified_by_their_manifest(shards, tmp_path):
    digests = corpus_digests("shards", arguments(shards))
    assert digests.keys() == {"SHARDS", "HC18_ROOT", "PLANES_ROOT"}
    out = shards["urls"]
    few = {**shards, "urls": out / "pairs-000000.tar"}
    assert corpus_digests("shards", arguments(few))["SHARDS"] != digests["SHARDS"], "fewer of them"
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["shards"][0]["sha256"] = "0" * 64
    (out / "manifest.json").write_text(json.dumps(manifest))
    changed = corpus_digests("shards", arguments(shards))
    assert {name for name in digests if changed[name] != digests[name]} == {"SHARDS"}


def test_shards_without_a_manifest_are_identified_by_name_and_size(shards, tmp_path):
    shards["urls"] /= "manifest.json"
    shards["urls"].unlink()
    shards["urls"] = shards["urls"].parent.rename(tmp_path / "theirs")
    listed = corpus_digests("shards", arguments(shards))["SHARDS"]
    shards["urls"] = shards["urls"].rename(tmp_path / "moved")
    assert corpus_digests("shards", arguments(shards))["SHARDS"] == listed
    with (shards["urls"] / "pairs-000001.tar").open("ab") as file:
        file.write(b"more")
    longer = corpus_digests("shards", arguments(shards))["SHARDS"]
    assert longer != listed
    piped = [{**shards, "urls": f"pipe:cat {name}.tar"} for name in "ab"]
    assert len({corpus_digests("shards", arguments(one))["SHARDS"] for one in piped}) == 2
    (shards["urls"] / "pairs-000000.tar").unlink()
    gone = {**shards, "urls": f"{shards['urls']}/pairs-{{000000..000001}}.tar"}
    with pytest.raises(FileNotFoundError, match="1 of 2 shards missing"):
        corpus_digests("shards", arguments(gone))


def test_the_manifest_names_the_corpora_in_the_shards(shards, tmp_path):
    found = resolve("srkd", "shards", arguments(shards))
    assert shard_corpora(found.data) == {"hc18": "train", "planes": "train"}
    assert cautions(found, trains=True) == []
    out = tmp_path / "everything"
    main(["shards", str(shards["hc18_root"]), str(out), "--no-exclude-test"])
    found = resolve("srkd", "shards", arguments(shards | {"urls": out}))
    assert shard_corpora(found.data) == {"hc18": "all"}
    assert cautions(found, trains=True) == [
        "the shards hold test patients of hc18: scores on it are too good"
    ]
    # A checkpoint of this run keeps it, and what is trained from it.
    path = tmp_path / "best.ckpt"
    for _ in range(2):
        torch.save({RUN_RECORD: make_record(found)}, path)
        student = {"class_path": "models.from_checkpoint", "init_args": {"path": str(path)}}
        found = resolve("srkd", "shards", [*arguments(shards), f"--model.student={json.dumps(student)}"])
        said = f"student {path} was trained on shards with test patients of hc18: scores on it are too good"
        assert cautions(found, trains=False)[0] == said
    (out / "manifest.json").unlink()
    assert shard_corpora(resolve("srkd", "shards", [f"--data.urls={out}"]).data) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_a_corpus_counts_as_whole_where_any_of_its_shards_hold_test_patients(monkeypatch, order):
    sources = [[{"name": "hc18", "evaluation_images_left_out": left_out}] for left_out in (True, False)]
    sources.append([{"name": "planes", "evaluation_images_left_out": True}, {"name": "mine"}])
    # No benchmark scores it, so none of its images is a test patient's.
    sources[0].append({"name": "african", "evaluation_images_left_out": 0})
    manifests = {f"{n}/manifest.json": {"sources": each} for n, each in enumerate(sources[::order])}
    monkeypatch.setattr(input_digests, "data_places", lambda _: {"SHARDS": "pipe:cat a.tar"})
    monkeypatch.setattr(input_digests, "_STORE", SimpleNamespace(manifests=lambda _: manifests))
    assert shard_corpora(Namespace()) == {"hc18": "all", "planes": "train"}


def places(preset, given):
    return data_places(resolve("srkd", preset, given).data)


def test_the_last_setting_counts(tmp_path, monkeypatch):
    assert places("hc18", []) == {"HC18_ROOT": "data/HC18"}
    monkeypatch.setenv("HC18_ROOT", "/environment")
    assert places("hc18", []) == {"HC18_ROOT": "/environment"}
    config = tmp_path / "own.yaml"
    config.write_text("data: {init_args: {root: /config}}\nmodel: {learning_rate: 1.0e-3}")
    assert places("hc18", [f"--config={config}"]) == {"HC18_ROOT": "/config"}
    assert places("hc18", [f"--config={config}", "--data.root=/argument"]) == {"HC18_ROOT": "/argument"}
    assert places("shards", ["--data.planes_root=null"]).keys() == {"SHARDS", "HC18_ROOT"}


@pytest.mark.parametrize("own", ["--data=my.DataModule", "--data.class_path=my.DataModule"])
def test_a_users_own_data_module_has_no_digest(own, tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text(
        "from datamodules import HC18DataModule\nclass DataModule(HC18DataModule): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert corpus_digests("hc18", [own, "--data.root=/nowhere"]) == {}


@pytest.fixture
def saved(tmp_path):
    """A folder as `transformers` saves a model."""
    folder = tmp_path / "saved"
    (folder / "tokenizer").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer/vocab.json"):
        (folder / name).write_text(name)
    return folder


def test_the_digest_of_weights_is_the_start_of_their_sha256(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(bytes(range(256)) * 1000)
    assert content_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_the_digest_of_a_folder_ignores_hidden_files_and_follows_links(saved, tmp_path):
    digest = content_digest(saved)
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "downloaded").write_text("yesterday")
    assert content_digest(copy) == digest
    vocabulary = copy / "tokenizer" / "vocab.json"
    vocabulary.unlink()
    vocabulary.symlink_to(saved / "tokenizer" / "vocab.json")  # as in a download cache
    assert content_digest(copy) == digest
    vocabulary.rename(copy / "vocab.json")
    assert content_digest(copy) != digest


def test_settings_and_the_files_of_ones_own_benchmarks_have_digests(tmp_path):
    settings, table, prompts = (tmp_path / name for name in ("mine.yaml", "clinic.csv", "prompts.json"))
    table.write_text("image,plane\na.png,brain\n")
    prompts.write_text('{"brain": ["a head"], "femur": ["a thigh"]}')
    own = f'[{{"name": "clinic", "table": "{table}", "label": "finding", "prompts": "{prompts}"}}]'

    def digests(rate):
        settings.write_text(f"model: {{learning_rate: {rate}}}\ndata: {{init_args: {{benchmarks: {own}}}}}\n")
        arguments = [f"--config={settings}"]
        return content_digests(arguments) | corpus_digests("phantom", arguments)

    before = digests(0.1)
    assert before.keys() == {"--config", "clinic, table", "clinic, prompts"}
    assert digests(0.1) == before
    assert [name for name, value in digests(0.2).items() if value != before[name]] == ["--config"]
    prompts.write_text('{"brain": ["a skull"], "femur": ["a thigh"]}')
    changed = digests(0.1)
    assert [name for name in before if changed[name] != before[name]] == ["clinic, prompts"]


def test_only_weights_and_prompts_among_arguments_have_digests(saved, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    files = [f"--teacher={tmp_path / 'a'}", f"--student={saved}", f"--protocol={DEFAULT_PROTOCOL}"]
    assert content_digests([*files, "--trainer.max_epochs=2", f"--teacher={tmp_path / 'b'}"]) == {
        "--teacher": content_digest(tmp_path / "b"),
        "--student": content_digest(saved),
        "--protocol": Protocol.load().digest,
    }


@pytest.mark.parametrize("option", ["--teacher", "--student", "--protocol"])
def test_a_missing_file_is_named(option, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{option[2:].upper()}=.*nowhere: no such file"):
        content_digests([f"{option}={tmp_path / 'nowhere'}"])
    with pytest.raises(FileNotFoundError, match=r"--config=nowhere\.yaml: no such file"):
        content_digests(["--config=nowhere.yaml"])
    with pytest.raises(ValueError, match=f"{option}: give a path"):
        content_digests([f"{option}="])
