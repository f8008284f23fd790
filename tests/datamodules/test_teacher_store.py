"""The store gives back what was put in, and a data module with one renders the draws that it names."""

import pytest
import torch

from datamodules import HC18DataModule
from datamodules.teacher_store import TeacherStore
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

STUDENT = Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD, tokenizer="fetal", context_length=24)
TEACHER = Preprocessing(48, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 5e-4)])
def test_numbers_come_back_also_after_reopening(tmp_path, half, tolerance):
    store = TeacherStore(tmp_path / "x", draws=3, images=5, dim=4, half=half)
    image, text = torch.nn.functional.normalize(torch.randn(2, 2, 4), dim=-1)
    store.put([(0, 4), (2, 1)], image, text)
    store.rows.close()
    again = TeacherStore(tmp_path / "x", 3, 5, 4, half)
    for row, key in enumerate([(0, 4), (2, 1)]):
        kept = again.get(*key)
        assert kept.dtype == torch.float32
        assert (kept - torch.stack((image[row], text[row]))).abs().max() <= tolerance
    assert len(again.missing()) == 13
    assert (0, 4) not in again.missing()
    with pytest.raises(ValueError, match="x: draw 1 of image 1 is not stored; start the run again"):
        again.get(1, 1)


def test_every_damaged_row_is_missing_and_named(tmp_path):
    store = filled(tmp_path / "x", draws=2, images=20)
    raw = bytearray(store.rows.path.read_bytes())
    length = len(raw) // 40
    for row in (3, 25, 39):
        raw[length * row + 7] ^= 4
    store.rows.path.write_bytes(raw)
    with pytest.warns(UserWarning, match="damaged") as caught:
        assert store.missing() == [(0, 3), (1, 5), (1, 19)]
    lines = [f"{store.rows.path}: row {row} is damaged and will be computed again" for row in (3, 25, 39)]
    assert [str(warning.message) for warning in caught] == lines
    store.put([(1, 5)], torch.ones(1, 3), torch.ones(1, 3))
    assert store.get(1, 5).tolist() == [[1.0] * 3] * 2


def filled(path, draws, images):
    store = TeacherStore(path, draws, images, dim=3)
    keys = store.missing()
    places = torch.tensor(keys, dtype=torch.float32)
    numbers = torch.cat((places, torch.zeros(len(keys), 1)), dim=1)
    store.put(keys, numbers, -numbers)
    return store


@pytest.mark.parametrize("workers", [0, 2])
def test_the_student_sees_the_very_draws_and_their_embeddings(tiny_hc18, tmp_path, workers):
    options = {"batch_size": 6, "num_workers": workers, "zoom": 0.3}
    data = HC18DataModule(root=str(tiny_hc18), **options)
    data.bind(STUDENT, TEACHER)
    plain = {key: data.draw_loader([key]) for key in [(0, 1), (1, 0), (1, 1)]}
    expected = {key: next(iter(loader)) for key, loader in plain.items()}
    data.taught_by(filled(tmp_path / "store", 2, len(data.split("train"))))
    seen = {}
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert "teacher_image" not in batch
            assert "teacher_tokens" not in batch
            for row, index in enumerate(batch["index"].tolist()):
                draw, place, _ = batch["teacher_embedding"][row, 0].tolist()
                assert (draw, place) == (epoch % 2, index)
                assert torch.equal(batch["teacher_embedding"][row, 1], -batch["teacher_embedding"][row, 0])
                key = (epoch % 2, index)
                image, tokens = batch["student_image"][row], batch["student_tokens"][row]
                if key in seen:
                    assert torch.equal(seen[key][0], image)
                seen[key] = (image, tokens)
    for key, batch in expected.items():
        assert torch.equal(seen[key][0], batch["student_image"][0])
        assert torch.equal(seen[key][1], batch["student_tokens"][0])
    assert not torch.equal(seen[(0, 1)][0], seen[(1, 1)][0])


def test_validation_stays_live(tiny_hc18, tmp_path):
    data = HC18DataModule(root=str(tiny_hc18), batch_size=6, num_workers=0)
    data.bind(STUDENT, TEACHER)
    data.taught_by(filled(tmp_path / "store", 2, len(data.split("train"))))
    batch = next(iter(data.val_dataloader()))
    assert "teacher_image" in batch
    assert "teacher_embedding" not in batch
