"""Shards have whole patients, are written once, and can be read for training."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections import Counter
from dataclasses import replace
from platform import node

import numpy as np
import pytest
from PIL import Image

from datamodules import PairShardsDataModule, TableDataModule
from datamodules.corpora.public import CORPORA, find_corpora
from datamodules.corpora.table import read_table
from datamodules.shards import writer
from datamodules.shards.pair_shards import list_shards
from datamodules.shards.writer import (
    collect,
    encode_sample,
    plan_shards,
    scan_shards,
    verify_shards,
    without_evaluation_patients,
    write_shards,
)
from experiments.commands.data import main
from models import CLIP_MEAN, CLIP_STD, Preprocessing
from tests.conftest import write_hc18, write_image, write_planes

SMALL = Preprocessing(16, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    roots = {"hc18": write_hc18(folder / "HC18"), "planes": write_planes(folder / "FETAL_PLANES_DB")}
    corpora = [(CORPORA[name], root) for name, root in roots.items()]
    return [record for corpus, root in corpora for record in corpus.assign_splits(corpus.read(root))]


@pytest.fixture
def records(read):
    return list(read)


@pytest.fixture(scope="module")
def written(read, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards")
    write_shards(read, out, [{"name": "test"}], 10)
    return out


@pytest.fixture
def out(written, tmp_path):
    """Shards of all records, ten samples each."""
    return shutil.copytree(written, tmp_path / "out")


def test_shards_have_whole_patients_and_every_image_once(records):
    shards = plan_shards(records, 10, 0)
    homes = {}
    for number, shard in enumerate(shards):
        assert 10 <= len(shard) < 14 or number == len(shards) - 1
        for record in shard:
            assert homes.setdefault((record.corpus, record.patient), number) == number
    assert sorted(r.name for shard in shards for r in shard) == sorted(r.name for r in records)
    assert plan_shards(list(reversed(records)), 10, 0) == shards
    assert plan_shards(records, 10, seed=1) != shards
    assert {"hc18", "planes"} <= {record.corpus for record in shards[0] + shards[1]}


def test_evaluation_patients_are_left_out(records):
    kept, left_out = without_evaluation_patients(records)
    assert len(kept) + left_out == len(records)
    assert {r.name for r in kept} == {r.name for r in records if r.split == "train"}
    assert left_out > 30


def test_shards_of_a_table_hold_the_patients_that_training_on_it_would_see(tmp_path):
    lines = ["image,patient,text"]
    for patient in range(40):
        write_image(tmp_path / f"{patient}.png", patient)
        lines.append(f"{patient}.png,p{patient},a head")
    path = tmp_path / "clinic.csv"
    path.write_text("\n".join(lines))
    records, (source,) = collect({}, exclude_test=True, tables={"clinic": read_table(path)})
    trained = {record.patient for record in TableDataModule(str(path)).split("train")}
    assert {(record.corpus, record.patient) for record in records} == {("clinic", name) for name in trained}
    assert source["evaluation_images_left_out"] == 40 - len(trained) > 0


def test_a_test_patient_of_one_table_is_in_the_shards_of_none(tmp_path):
    rows = {
        "one": ["1.png,eve,test", "2.png,ada,train", "3.png,,test", "4.png,vic,val"],
        "two": ["5.png,eve,train", "3.png,,train", "6.png,,val"],
    }
    tables = {}
    for name, lines in rows.items():
        for line in lines:
            write_image(tmp_path / line.partition(",")[0], int(line[0]))
        (tmp_path / f"{name}.csv").write_text("\n".join(["image,patient,split", *lines]))
        tables[name] = read_table(tmp_path / f"{name}.csv")
    records, sources = collect({}, exclude_test=True, tables=tables)
    assert [(record.corpus, record.name) for record in records] == [("one", "2.png"), ("two", "3.png")]
    assert [source["evaluation_images_left_out"] for source in sources] == [3, 2]


def test_a_patient_in_both_splits_is_removed_completely(records):
    """FETAL_PLANES_DB has the flag per image, so a table may have a patient in both splits."""
    torn, namesake = Counter(
        (r.corpus, r.patient) for r in records if r.corpus == "planes" and r.split == "train"
    ).most_common(2)
    assert torn[1] == 2
    number = next(n for n, r in enumerate(records) if (r.corpus, r.patient) == torn[0])
    other = [
        replace(r, corpus="hc18", name=f"x{r.name}") for r in records if (r.corpus, r.patient) == torn[0]
    ]
    records[number] = replace(records[number], split="test")
    kept, left_out = without_evaluation_patients(records + other)
    assert torn[0] not in {(r.corpus, r.patient) for r in kept}
    assert namesake[0] in {(r.corpus, r.patient) for r in kept}
    assert ("hc18", torn[0][1]) in {(r.corpus, r.patient) for r in kept}, (
        "another corpus's patient of that number"
    )
    assert len(kept) + left_out == len(records) + 2


def test_the_command_checks_settings_before_reading_data(tmp_path):
    with pytest.raises(ValueError, match="samples_per_shard must be at least 1, not -5"):
        main(["shards", str(tmp_path / "nowhere"), str(tmp_path / "out"), "--samples-per-shard=-5"])


def test_written_shards_train_and_verify(records, out):
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"]
    assert sum(shard["samples"] for shard in manifest["shards"]) == len(records)
    assert verify_shards(out) == []
    last = len(manifest["shards"]) - 1
    data = PairShardsDataModule(
        urls=f"{out}/pairs-{{000000..{last:06d}}}.tar", batch_size=4, num_workers=0, shuffle_buffer=20
    )
    data.setup("fit")
    data.bind(SMALL, None)
    batches = list(data.train_dataloader())
    assert len(batches) == len(records) // 4
    names = {name for batch in batches for name in batch["name"]}
    assert len(names) == len(batches) * 4
    assert any(name.startswith("hc18-005_2HC") for name in names)
    assert {plane for batch in batches for plane in batch["plane"]} >= {"brain", "femur"}


def test_an_interrupted_corpus_is_finished_with_equal_bytes(records, written, tmp_path, monkeypatch):
    whole, sources = json.loads((written / "manifest.json").read_text()), [{"name": "test"}]
    encoded = []

    def interrupted(record):
        if len(encoded) == 35:
            raise KeyboardInterrupt
        encoded.append(record)
        return encode_sample(record)

    out = tmp_path / "broken"
    monkeypatch.setattr(writer, "encode_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shards(records, out, sources, 10)
    monkeypatch.undo()
    assert len(verify_shards(out)) == 1  # incomplete, and nothing half-written counts
    done = sorted(out.glob("*.tar"))
    times = [path.stat().st_mtime_ns for path in done]
    assert 2 <= len(done) < len(whole["shards"])
    assert write_shards(records, out, sources, 10) == whole
    assert [path.stat().st_mtime_ns for path in done] == times
    assert verify_shards(out) == []
    assert {path.name for path in out.iterdir()} == {path.name for path in written.iterdir()}


def test_the_partial_shard_of_a_killed_process_is_ignored_and_removed(records, tmp_path):
    ended = subprocess.Popen("true")
    ended.wait()
    abandoned = tmp_path / f".pairs-000000.{node()}-{ended.pid}.partial.tar"
    abandoned.write_bytes(b"half")
    assert list_shards(str(tmp_path)) == [str(tmp_path / "*.tar")]
    write_shards(records[:20], tmp_path, [], 10)
    assert not abandoned.exists()


def test_shards_of_another_corpus_are_not_mixed(records, out, tmp_path):
    with pytest.raises(ValueError, match="shards of other images or settings"):
        write_shards(records[:-1], out, [], 10)
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"tar files without a manifest\.json"):
        write_shards(records, out, [], 10)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json"):
        verify_shards(out)
    with pytest.raises(ValueError, match="no image is left"):
        write_shards([], tmp_path / "none", [], 10)


def test_changed_and_missing_shards_are_found(out):
    with (out / "pairs-000000.tar").open("ab") as file:
        file.write(b"more")
    (out / "pairs-000001.tar").unlink()
    first, second = verify_shards(out)
    assert "pairs-000000.tar has changed" in first
    assert "pairs-000001.tar is missing" in second


def test_tar_files_that_no_manifest_lists_are_found(out):
    (out / "more.tar").touch()
    assert verify_shards(out) == [f"{out}/more.tar is not in manifest.json"]
    (out / "more.tar").unlink()
    (out / "manifest.json").write_text("{}")
    first, *others = verify_shards(out)
    assert first == f"{out}/manifest.json lists no shards"
    assert len(others) == len(list(out.glob("*.tar")))


def test_a_tar_file_that_ends_too_early_is_found(out):
    path = out / "pairs-000000.tar"
    with tarfile.open(path) as shard:
        third = shard.getmembers()[2].offset
    for other in (*out.glob("pairs-00000[2-9].tar"), *out.glob("pairs-00001*.tar")):
        other.unlink()
    assert scan_shards(out)["error"].isna().all()
    content = path.read_bytes()
    for damaged in (
        content[:third],
        content[: third + 100],
        content[:third] + b"\xff" * 512 + content[third + 512 :],
    ):
        path.write_bytes(damaged)
        (error,) = scan_shards(out)["error"].dropna()
        assert "pairs-000000.tar: damaged or cut off" in error


def test_a_manifest_without_hashes_is_checked_by_what_it_has(out):
    manifest = json.loads((out / "manifest.json").read_text())
    shards = [{key: shard[key] for key in ("name", "samples", "bytes")} for shard in manifest["shards"]]
    (out / "manifest.json").write_text(json.dumps({"shards": shards}))
    assert verify_shards(out) == []
    shards[0]["bytes"] += 1
    (out / "manifest.json").write_text(json.dumps({"shards": shards}))
    assert verify_shards(out) == [f"{out}/pairs-000000.tar has changed since it was written"]


def test_an_image_without_caption_ends_the_command_before_it_writes(records, tmp_path):
    with pytest.raises(ValueError, match=f"{records[-1].name}: no caption"):
        write_shards([*records[:-1], replace(records[-1], plane="spine")], tmp_path / "out", [], 10)
    assert not (tmp_path / "out").exists()


def test_a_sample_has_the_unchanged_file_and_every_caption(records):
    record = next(r for r in records if r.name == "012_HC.png")
    sample = encode_sample(record)
    assert sample["__key__"] == "hc18-012_HC"
    assert sample["png"] == record.image.read_bytes()
    facts = json.loads(sample["json"])
    assert facts["hc_mm"] == record.hc_mm
    assert facts["patient"] == "012"
    assert len(facts["captions"]) >= 3
    assert "{spacing}" in facts["captions"][0]
    spacing = f"{64 / 224 * record.pixel_size_mm:.2f}"
    assert sample["txt"].decode() == facts["captions"][0].replace("{spacing}", spacing)
    assert not {"image", "split", "name"} & set(facts)


def test_uncommon_formats_become_png(records, tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    sample = encode_sample(replace(records[0], image=tmp_path / "a.tif"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), pixels)
    (tmp_path / "a.tif").write_text("broken")
    with pytest.raises(ValueError, match=r"a\.tif: cannot be read"):
        encode_sample(replace(records[0], image=tmp_path / "a.tif"))


def test_shards_are_plain_tar_files(records, tmp_path):
    write_shards(records[:6], tmp_path, [], 10)
    with tarfile.open(tmp_path / "pairs-000000.tar") as archive:
        suffixes = [member.name.rsplit(".", 1)[1] for member in archive]
    assert suffixes == ["json", "png", "txt"] * 6


def test_corpora_are_found_by_their_tables(tiny_hc18, tiny_planes, tmp_path):
    assert find_corpora(tmp_path) == {"hc18": tiny_hc18, "planes": tiny_planes}
    assert find_corpora(tiny_hc18) == {"hc18": tiny_hc18}
    copy = tmp_path / "copy" / "deeper"
    copy.mkdir(parents=True)
    (copy / "training_set_pixel_size_and_HC.csv").write_text("")
    with pytest.raises(ValueError, match="HC18 is there twice"):
        find_corpora(tmp_path)
    with pytest.raises(FileNotFoundError, match="no corpus here"):
        find_corpora(tmp_path / "nowhere")


def test_the_command_builds_a_corpus_without_evaluation_patients(tiny_hc18, tiny_planes, tmp_path, capsys):
    out = tmp_path / "out"
    # Options may stand anywhere.
    assert main(["shards", str(tmp_path), "--samples-per-shard", "20", str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    heads, planes = manifest["sources"]
    assert (heads["name"], planes["name"]) == ("hc18", "planes")
    assert heads["licence"] == planes["licence"] == "CC BY 4.0"
    assert heads["counts"]["images"] + heads["evaluation_images_left_out"] == 36
    assert planes["evaluation_images_left_out"] > 36  # the official test half, and validation patients
    written = sum(shard["samples"] for shard in manifest["shards"])
    assert written == heads["counts"]["images"] + planes["counts"]["images"]
    assert f"{written} pairs in" in capsys.readouterr().out
    test_patients = {r.patient for r in CORPORA["planes"].read(tiny_planes, []) if r.split == "test"}
    for path in out.glob("*.tar"):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith("json"):
                    facts = json.load(archive.extractfile(member))
                    assert facts["corpus"] != "planes" or facts["patient"] not in test_patients
    assert main(["check", "shards", str(out)]) == 0
    everything = tmp_path / "everything"
    assert main(["shards", str(tmp_path / "HC18"), str(everything), "--no-exclude-test"]) == 0
    assert sum(s["samples"] for s in json.loads((everything / "manifest.json").read_text())["shards"]) == 36
