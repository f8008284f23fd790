"""Training from a teacher's kept embeddings gives the losses of a live teacher on the same draws."""

import errno
import os
import shutil
import warnings
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from torch import nn

from callbacks import TeacherCache, teacher_cache
from datamodules import HC18DataModule, PairShardsDataModule
from datamodules.pairs.stores import TeacherStore
from lightning_modules import DistillationModule
from losses import CLIPLoss, SRKDLoss
from models import DualEncoder, Preprocessing
from tests.callbacks.tiny import Losses, quiet_trainer
from tests.conftest import write_hc18
from tests.metrics.two_processes import run_in_processes

REFILLED = {"abs": 1e-5, "rel": 0}
"""Missing rows are embedded in batches of another size, whose matrix products some processors round differently."""


class Towers(DualEncoder):
    def __init__(self, size, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.preprocessing = Preprocessing(size, (0.5,) * 3, (0.5,) * 3, tokenizer="fetal", context_length=24)
        self.embed_dim = 16 + size
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, self.embed_dim))
        self.text = nn.EmbeddingBag(4096, self.embed_dim)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.images_seen = 0

    def image_features(self, image):
        self.images_seen += len(image)
        return self.image(image)

    def text_features(self, tokens):
        return self.text(tokens)

    @property
    def log_logit_scale(self):
        return self.scale

    def init_args(self):
        return {"size": self.preprocessing.image_size, "seed": 0}


class LiveOnTwoDraws(HC18DataModule):
    """The oracle: the teacher answers live, and epochs repeat draws by the plain rule."""

    def train_dataloader(self):
        loader = super().train_dataloader()
        dataset = loader.dataset
        plain = type(dataset).__getitem__

        class Repeating(type(dataset)):
            def __getitem__(self, key):
                return plain(self, (key[0] % 2, key[1]))

        dataset.__class__ = Repeating
        return loader


def fit(
    root,
    tmp_path,
    cache=None,
    loss=None,
    data=HC18DataModule,
    epochs=4,
    teacher_seed=2,
    draws=2,
    workers=0,
    **options,
):
    losses = Losses()
    module = DistillationModule(
        Towers(8, 1), Towers(12, teacher_seed), loss or SRKDLoss(), learning_rate=1e-2
    )
    settings = {"accelerator": "cpu", "precision": "32-true", **options}
    trainer = quiet_trainer(
        tmp_path, losses, *([cache] if cache else []), max_epochs=epochs, limit_val_batches=0, **settings
    )
    draws = draws if cache else None
    trainer.fit(
        module, datamodule=data(root=str(root), batch_size=6, num_workers=workers, zoom=0.2, draws=draws)
    )
    return losses.values, module


def cache_in(tmp_path, **options):
    return TeacherCache(str(tmp_path / "store"), **options)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """36 images, which tests must not change."""
    return write_hc18(tmp_path_factory.mktemp("corpus") / "HC18")


@pytest.fixture(scope="module")
def live(corpus, tmp_path_factory):
    """The losses with a live teacher."""
    return fit(corpus, tmp_path_factory.mktemp("live"), data=LiveOnTwoDraws)[0]


@pytest.fixture(scope="module")
def filled(corpus, tmp_path_factory):
    """The folder of a run that filled its store, its losses, and the images that the teacher was asked for."""
    folder = tmp_path_factory.mktemp("filled")
    losses, module = fit(corpus, folder, cache_in(folder))
    return folder, losses, module.teacher.images_seen


@pytest.fixture
def kept(filled, tmp_path):
    """The losses and the asked images of the run whose store is copied to `tmp_path`."""
    shutil.copytree(filled[0] / "store", tmp_path / "store")
    return filled[1:]


def test_losses_are_those_of_a_live_teacher(live, filled, corpus, tmp_path):
    assert len(live) >= 12
    assert filled[1] == pytest.approx(live, abs=1e-5, rel=0)
    halves, _ = fit(corpus, tmp_path, cache_in(tmp_path, half=True))
    assert halves == pytest.approx(live, abs=1e-3, rel=0)


def test_four_draws_are_not_two(live, corpus, tmp_path):
    assert fit(corpus, tmp_path)[0][-1] != pytest.approx(live[-1], abs=1e-4)


def test_workers_fill_and_read_a_store(filled, corpus, tmp_path):
    assert fit(corpus, tmp_path, cache_in(tmp_path), workers=2)[0] == filled[1]


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bf16-mixed", 1e-3), ("bf16-true", 1e-2), ("64-true", 1e-5)]
)
def test_other_precisions_agree_too(corpus, tmp_path, precision, tolerance):
    live, _ = fit(corpus, tmp_path, data=LiveOnTwoDraws, precision=precision)
    kept, _ = fit(corpus, tmp_path, cache_in(tmp_path), precision=precision)
    assert kept == pytest.approx(live, abs=tolerance)


def test_a_second_run_asks_the_teacher_only_for_the_probe(kept, corpus, tmp_path):
    losses, asked = kept
    again, module = fit(corpus, tmp_path, cache_in(tmp_path))
    assert again == losses
    assert module.teacher.images_seen == 8 < asked
    assert asked % 2 == 0  # two draws of every image


def _fill(rank, root, tmp_path):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0")
    _, module = fit(root, tmp_path, cache_in(tmp_path), epochs=1, devices=2, strategy="ddp")
    (tmp_path / str(rank)).write_text(str(module.teacher.images_seen))


def test_two_processes_share_the_work(corpus, tmp_path):
    run_in_processes(2, _fill, tmp_path, corpus, tmp_path)
    count = len(HC18DataModule(root=str(corpus)).split("train"))
    assert [int((tmp_path / rank).read_text()) for rank in "01"] == [count, count]  # of two draws each
    (path,) = (tmp_path / "store").iterdir()
    assert TeacherStore(path, 2, count, 28).missing() == []


def change(tmp_path, function):
    (path,) = (tmp_path / "store").iterdir()
    path.write_bytes(function(path.read_bytes()))
    return path


def test_an_interrupted_store_is_completed(kept, corpus, tmp_path):
    losses, asked = kept
    change(tmp_path, lambda raw: raw[: len(raw) // asked * 10])
    again, module = fit(corpus, tmp_path, cache_in(tmp_path))
    assert again == pytest.approx(losses, **REFILLED)
    assert module.teacher.images_seen == 8 + asked - 10


def test_a_damaged_row_is_embedded_again(kept, corpus, tmp_path):
    """The last row, which no comparison with fresh embeddings reaches."""
    path = change(tmp_path, lambda raw: raw[:-1] + bytes([raw[-1] ^ 64]))
    with pytest.warns(UserWarning, match=rf"{path.name}: row \d+ is damaged"):
        again, module = fit(corpus, tmp_path, cache_in(tmp_path))
    assert again == pytest.approx(kept[0], **REFILLED)
    assert module.teacher.images_seen == 8 + 1
    assert fit(corpus, tmp_path, cache_in(tmp_path))[0] == again


def test_a_store_of_other_code_is_noticed(kept, corpus, tmp_path):
    count, dim = len(HC18DataModule(root=str(corpus)).split("train")), Towers(12, 2).embed_dim
    (path,) = (tmp_path / "store").iterdir()
    other = torch.nn.functional.normalize(torch.ones(2 * count, dim), dim=1)
    TeacherStore(path, 2, count, dim).put(list(product(range(2), range(count))), other, other)
    with pytest.warns(UserWarning, match="written by other code"):
        again, _ = fit(corpus, tmp_path, cache_in(tmp_path))
    assert again == kept[0]


def test_training_goes_on_with_a_live_teacher_when_the_disk_is_full(live, corpus, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.warns(UserWarning, match="No space left on device; training runs the teacher at every step"):
        kept, _ = fit(corpus, tmp_path, cache_in(tmp_path))
    assert kept == pytest.approx(live, abs=1e-5, rel=0)
    assert list((tmp_path / "store").iterdir()) == []


def test_an_error_without_a_number_is_named_too(corpus, tmp_path, monkeypatch):
    def failing(*_):
        raise OSError("the file system is odd")

    monkeypatch.setattr("callbacks.teacher_cache.TeacherStore", failing)
    with pytest.warns(UserWarning, match=r"embeddings: the file system is odd; training runs the teacher"):
        fit(corpus, tmp_path, cache_in(tmp_path))


def test_another_teacher_has_another_store(kept, corpus, tmp_path):
    assert fit(corpus, tmp_path, cache_in(tmp_path), teacher_seed=5)[0] != kept[0]
    assert len(list((tmp_path / "store").iterdir())) == 2


def store_name(root, precision="32-true", half=False, student=8, teacher=None, **settings):
    module = DistillationModule(Towers(student, 1), Towers(12, 2), SRKDLoss())
    vars(module.teacher).update(teacher or {})
    data = HC18DataModule(root=str(root), **{"draws": 2, "zoom": 0.2, **settings})
    return TeacherCache(half=half)._digest(SimpleNamespace(precision=precision), module, data)


@pytest.mark.parametrize(
    "other",
    [
        {"zoom": 0.3}, {"zoom": 0, "augmentation": None}, {"seed": 1}, {"on_error": "skip"}, {"draws": 3},
        {"half": True}, {"precision": "bf16-mixed"}, {"student": 10},
        {"teacher": {"preprocessing": replace(Towers(12, 2).preprocessing, mean=(0.4,) * 3)}},
        {"teacher": {"init_args": lambda: {"heads": 2}}},
    ],
)  # fmt: skip
def test_what_changes_a_view_or_an_embedding_has_a_store_of_its_own(corpus, other):
    assert store_name(corpus) == store_name(corpus) != store_name(corpus, **other)


@pytest.mark.parametrize("change", ["size", "time", "measurement"])
def test_a_changed_training_image_has_a_store_of_its_own(tiny_hc18, change):
    before = store_name(tiny_hc18)
    record = HC18DataModule(root=str(tiny_hc18)).split("train")[-1]
    state = record.image.stat()
    if change == "size":
        record.image.write_bytes(record.image.read_bytes() + b" ")
        os.utime(record.image, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif change == "time":
        os.utime(record.image, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    else:
        table = tiny_hc18 / "training_set_pixel_size_and_HC.csv"
        rows = table.read_text().splitlines(keepends=True)
        table.write_text(
            "".join(f"{row.rstrip()}5\n" if row.startswith(record.image.name) else row for row in rows)
        )
    assert store_name(tiny_hc18) != before


def test_a_loss_without_teacher_keeps_nothing(corpus, tmp_path):
    live, _ = fit(corpus, tmp_path, data=LiveOnTwoDraws, loss=CLIPLoss())
    assert fit(corpus, tmp_path, cache_in(tmp_path), loss=CLIPLoss())[0] == live  # on the same draws
    assert not (tmp_path / "store").exists()


def test_a_stream_is_refused_in_one_line(tmp_path):
    module = DistillationModule(Towers(8, 1), Towers(12, 2), SRKDLoss())
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.datamodule = PairShardsDataModule.__new__(PairShardsDataModule)
    with pytest.raises(ValueError, match=r"TeacherCache: PairShardsDataModule reads a stream"):
        cache_in(tmp_path).setup(trainer, module, "fit")


def test_the_number_of_draws_is_needed(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"data\.draws is null; set it"):
        fit(corpus, tmp_path, cache_in(tmp_path), draws=None)
    with pytest.raises(ValueError, match="data: draws must be at least 1, not 0"):
        HC18DataModule(root=str(corpus), draws=0)


def test_the_rounding_of_half_precision_is_not_other_code(kept, corpus, tmp_path, monkeypatch):
    """On a GPU a batch of another size is rounded differently: a ViT-L/14 in bfloat16 by 1.5e-3."""
    fit(corpus, tmp_path, cache_in(tmp_path), precision="bf16-mixed")
    embed = teacher_cache._embed
    monkeypatch.setattr(teacher_cache, "_embed", lambda *given: tuple(x + 2e-3 for x in embed(*given)))
    for precision, asked in (("bf16-mixed", 0), ("32-true", kept[1])):
        with warnings.catch_warnings(record=True):
            _, module = fit(corpus, tmp_path, cache_in(tmp_path), precision=precision)
        assert module.teacher.images_seen == 8 + asked
