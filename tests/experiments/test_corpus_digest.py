"""Data are told by what is in them, wherever they lie and however they are given."""

from __future__ import annotations

import json

import pytest

from experiments import make_shards
from experiments.corpus_digest import corpus_digests, data_places, shard_corpora


@pytest.fixture(autouse=True)
def _no_folders(monkeypatch):
    for name in ("HC18_ROOT", "PLANES_ROOT", "SHARDS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shards(tiny_hc18, tiny_planes, tmp_path):
    """What a run with ``SHARDS=``, ``HC18_ROOT=`` and ``PLANES_ROOT=`` is given."""
    out = tmp_path / "shards"
    make_shards.main([str(tmp_path), str(out), "--samples-per-shard=20"])
    return {"urls": out, "hc18_root": tiny_hc18, "planes_root": tiny_planes}


def arguments(folders):
    return [f"--data.init_args.{name}={folder}" for name, folder in folders.items()]


def test_the_phantom_has_no_digest_and_needs_no_data():
    assert corpus_digests("phantom", ["--data.root=/nowhere"]) == {}
    assert shard_corpora("phantom", []) == {}


def test_a_corpus_is_told_by_its_table(tiny_hc18, tmp_path, monkeypatch):
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))
    digests = corpus_digests("hc18", [])
    moved = tiny_hc18.rename(tmp_path / "moved")
    assert corpus_digests("hc18", [f"--data.root={moved}"]) == digests == {"HC18_ROOT": digests["HC18_ROOT"]}
    table = moved / "training_set_pixel_size_and_HC.csv"
    table.write_text(table.read_text().replace("80.0", "81.0"))
    assert corpus_digests("hc18", ["--data.init_args.root", str(moved)]) != digests


def test_shards_are_told_by_their_manifest(shards, tmp_path):
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


def test_shards_without_a_manifest_are_told_by_their_list(shards, tmp_path):
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
    with pytest.raises(FileNotFoundError, match="1 of 2 shards are missing"):
        corpus_digests("shards", arguments(gone))


def test_the_manifest_tells_whose_training_patients_are_in_the_shards(shards, tmp_path):
    assert shard_corpora("shards", arguments(shards)) == {"hc18": "train", "planes": "train"}
    out = tmp_path / "everything"
    make_shards.main([str(shards["hc18_root"]), str(out), "--no-exclude-test"])
    assert shard_corpora("shards", [f"--data.urls={out}"]) == {"hc18": "all"}
    (out / "manifest.json").unlink()
    assert shard_corpora("shards", [f"--data.urls={out}"]) == {}


def test_the_last_of_several_counts(tmp_path, monkeypatch):
    assert data_places("hc18", []) == {"HC18_ROOT": "data/HC18"}
    monkeypatch.setenv("HC18_ROOT", "/environment")
    assert data_places("hc18", []) == {"HC18_ROOT": "/environment"}
    config = tmp_path / "own.yaml"
    config.write_text("data: {init_args: {root: /config}}\nmodel: {learning_rate: 1.0e-3}")
    assert data_places("hc18", [f"--config={config}"]) == {"HC18_ROOT": "/config"}
    assert data_places("hc18", [f"--config={config}", "--data.root=/argument"]) == {"HC18_ROOT": "/argument"}
    assert data_places("shards", ["--data.planes_root=null"]).keys() == {"SHARDS", "HC18_ROOT"}


@pytest.mark.parametrize("own", ["--data=my.DataModule", "--data.class_path=my.DataModule"])
def test_nothing_is_known_of_a_data_module_of_ones_own(own):
    assert corpus_digests("hc18", [own, "--data.root=/nowhere"]) == {}
