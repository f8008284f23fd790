import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.corpora.fetal_planes import read_fetal_planes
from datamodules.corpora.hc18 import read_hc18
from datamodules.pairs.image_reading import read_image
from datamodules.phantom import corpus
from datamodules.phantom.corpus import PhantomSettings, make_corpus
from datamodules.phantom.datamodule import PhantomDataModule
from datamodules.phantom.patients import Picture
from datamodules.phantom.renderer import Truth
from datamodules.shards.pair_shards import PairShardsDataModule
from models import Preprocessing
from models.preprocessing import CLIP_MEAN, CLIP_STD

SETTINGS = PhantomSettings(seed=2, num_planes_images=80, num_hc18_images=30, num_pair_images=12)
STUDENT = Preprocessing(image_size=32, mean=CLIP_MEAN, std=CLIP_STD, tokenizer="fetal", context_length=32)


def noise(picture: Picture, seed: int) -> tuple[np.ndarray, Truth]:
    """A small picture that depends on the same as the simulator's, and costs nothing."""
    image = np.random.default_rng([seed, *picture.corpus.encode(), picture.index]).integers(
        0, 256, (30, 40), np.uint8
    )
    return image, Truth(
        0.2, picture.patient.ga_days, picture.patient.hc_mm if picture.plane == "brain" else None
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "render", noise)
        yield tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="module")
def data(root: Path) -> PhantomDataModule:
    module = PhantomDataModule(str(root), SETTINGS, workers=1, val_share=0.2, batch_size=16, num_workers=0)
    module.prepare_data()
    module.bind(STUDENT)
    module.setup("fit")
    return module


def test_further_test_patients_change_nothing_else(root):
    """They come last, all for tests; the other pictures, their patients and their splits stay as they were."""
    without = PhantomDataModule(str(root), replace(SETTINGS, further_tests=0.0), workers=1).read_records()
    records = PhantomDataModule(str(root), SETTINGS, workers=1).read_records()
    for name, count in (("planes", 80), ("hc18", 30)):
        before, after = ([one for one in some if one.corpus == name] for some in (without, records))
        assert [(one.name, one.patient, one.split) for one in after[:count]] == [
            (one.name, one.patient, one.split) for one in before
        ]
        further = after[count:]
        assert {one.split for one in further} == {"test"}
        assert not {one.patient for one in further} & {one.patient for one in before}
    assert [one.image.read_bytes() for one in without] == [
        one.image.read_bytes() for one in records if one.name in {old.name for old in without}
    ]


def test_records_come_through_the_official_readers(data: PhantomDataModule) -> None:
    folder = make_corpus(SETTINGS, data.root)
    expected = read_fetal_planes(folder / "FETAL_PLANES_DB") + read_hc18(folder / "HC18")
    assert [record.name for record in data.records] == [record.name for record in expected]
    assert len(data.records) == 80 + 26 + 30 + 10  # with the further test patients


def test_no_patient_is_in_two_splits(data: PhantomDataModule) -> None:
    sides = defaultdict(set)
    for record in data.records:
        sides[record.corpus, record.patient].add(record.split)
    assert all(len(splits) == 1 for splits in sides.values())
    assert {split for splits in sides.values() for split in splits} == {"train", "val", "test"}


@pytest.mark.parametrize("benchmark", ["planes", "subplanes", "hc18"])
def test_each_benchmark_scores_its_test_images_once(data: PhantomDataModule, benchmark: str) -> None:
    assert benchmark in data.benchmarks
    records = data.evaluation_records(benchmark, "test")
    assert len({record.name for record in records}) == len(records)
    assert all(read_image(record.image).ndim == 2 for record in records)
    measured = [record.hc_mm is not None for record in records]
    assert all(measured) == (benchmark in ("hc18", "subplanes"))  # brains carry their size


def test_training_batches_mix_planes_and_heads(data: PhantomDataModule) -> None:
    batches = list(data.train_dataloader())
    assert batches[0]["student_image"].shape == (16, 3, 32, 32)
    names = [name for batch in batches for name in batch["name"]]
    assert any(name.startswith("Patient") for name in names)
    assert any("HC" in name for name in names)


def test_pairs_are_read_by_the_shard_stream(data: PhantomDataModule, root: Path) -> None:
    folder = make_corpus(SETTINGS, root) / "pairs"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {"shards": [{"name": "pairs-000000.tar", "samples": 12}]}
    shards = PairShardsDataModule(str(folder / "pairs-000000.tar"), batch_size=4, num_workers=0)
    shards.bind(STUDENT)
    shards.setup("fit")
    batches = list(shards.train_dataloader())
    assert len(batches) == 3
    assert {plane for batch in batches for plane in batch["plane"]} <= {
        record.plane for record in data.records
    }


def test_a_corpus_without_heads_is_rejected(root: Path) -> None:
    with pytest.raises(ValueError, match="num_hc18_images above 0"):
        PhantomDataModule(str(root), PhantomSettings(num_hc18_images=0))
