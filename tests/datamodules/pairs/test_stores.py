"""Damaged rows are detected, processes can share a file, and a full disk does not stop training."""

import errno
import multiprocessing
import os
import pickle
import resource
import warnings

import numpy as np
import pytest
import torch

from datamodules import Augmentation, HC18DataModule
from datamodules.pairs import stores
from datamodules.pairs.sample import PairBuilder, PairDataset
from datamodules.pairs.stores import RowStore, SquareCache, TeacherStore
from datamodules.record import Record
from models import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tests.conftest import write_image

pytestmark = pytest.mark.faults

STUDENT = Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD, tokenizer="fetal", context_length=24)
TEACHER = Preprocessing(48, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)
ROWS = [bytes(range(number, number + 20)) for number in range(3)]


def filled_rows(path):
    store = RowStore(path, len(ROWS), len(ROWS[0]))
    for number, row in enumerate(ROWS):
        store.write(number, row)
    return store


def read_all(store):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return [store.read(number) for number in range(len(ROWS))], [str(w.message) for w in caught]


def test_rows_come_back_in_every_process(tmp_path):
    store = filled_rows(tmp_path / "deep" / "x.rows")
    for reader in (store, RowStore(store.path, len(ROWS), 20), pickle.loads(pickle.dumps(store))):
        assert read_all(reader) == (ROWS, [])
    store.close()
    assert read_all(store) == (ROWS, [])
    store.clear()
    assert read_all(store) == ([None] * 3, [])
    assert store.path.stat().st_size == store.size


def test_a_change_of_any_byte_is_detected(tmp_path):
    """Flips one bit of every byte in turn."""
    store = filled_rows(tmp_path / "x.rows")
    whole = store.path.read_bytes()
    for place in range(len(whole)):
        store.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        damaged = place // (len(whole) // 3)
        rows, messages = read_all(RowStore(store.path, len(ROWS), 20))
        assert rows == [None if number == damaged else row for number, row in enumerate(ROWS)]
        assert messages == [f"{store.path}: row {damaged} is damaged and will be computed again"]


def test_the_first_damaged_rows_are_named(tmp_path):
    store = RowStore(tmp_path / "x.rows", 120, 20)
    store.path.write_bytes(b"\xff" * store.size)
    with pytest.warns(UserWarning, match="row [012] is damaged") as caught:
        assert [store.read(row) for row in range(120)] == [None] * 120
    assert len(caught) == 3


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 30, 71])
def test_a_truncated_file_gives_only_complete_rows(tmp_path, length):
    store = filled_rows(tmp_path / "x.rows")
    os.truncate(store.path, length)
    expected = [row if length >= 24 * (number + 1) else None for number, row in enumerate(ROWS)]
    assert read_all(store)[0] == expected, "also in a process that has it open"
    assert read_all(RowStore(store.path, len(ROWS), 20))[0] == expected


def test_zeroed_misplaced_and_half_written_rows_are_absent(tmp_path):
    store = filled_rows(tmp_path / "x.rows")
    whole = store.path.read_bytes()
    for content in (bytes(72), bytes(4) + whole[4:24] + bytes(48), whole[24:48] + whole[:24] + bytes(24)):
        store.path.write_bytes(content)
        assert read_all(store)[0] == [None] * 3


def squares_of(index):
    square = np.full((16, 16), 40 + index, dtype=np.uint8)
    square[0] = index
    return square


def _rank(root, records, starts, barrier, wrong):
    rng = np.random.default_rng(os.getpid())
    for start in range(starts):
        barrier.wait()
        cache = SquareCache(root / str(start), records, 16)
        for _ in range(2):
            for index in rng.permutation(len(records)).tolist():
                square, shape = cache.get(index, 0, lambda index=index: (squares_of(index), (50, 40)))
                if shape != (50, 40) or not np.array_equal(square, squares_of(index)):
                    with wrong.get_lock():
                        wrong.value += 1


def test_concurrent_processes_never_read_wrong_pixels(tmp_path):
    ranks = 4
    images = [tmp_path / f"{index}.png" for index in range(6)]
    for image in images:
        image.touch()
    records = [Record("planes", str(index), image, "") for index, image in enumerate(images)]
    context = multiprocessing.get_context("fork")  # a spawned process would import everything again
    barrier, wrong = context.Barrier(ranks), context.Value("i", 0)
    processes = [
        context.Process(target=_rank, args=(tmp_path, records, 40, barrier, wrong)) for _ in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks
    assert wrong.value == 0
    for start in range(40):  # and what they left is right for later runs
        cache = SquareCache(tmp_path / str(start), records, 16)
        for index in range(len(records)):
            square, _ = cache.get(index, 0, lambda: pytest.fail("not stored"))
            assert np.array_equal(square, squares_of(index))


def views(root, cache):
    data = HC18DataModule(root=str(root), batch_size=6, num_workers=0, cache=cache and str(cache))
    data.bind(STUDENT)
    return [batch["student_image"].numpy().tobytes() for batch in data.train_dataloader()]


def without_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_training_continues_without_space_for_the_cache(tiny_hc18, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", without_space, raising=False)
    line = f"{tmp_path / 'cache'}: No space left on device; training continues without it"
    with pytest.warns(UserWarning, match=line) as caught:
        assert views(tiny_hc18, tmp_path / "cache") == views(tiny_hc18, None)
    assert len(caught) == 1
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_fault_without_a_number_is_named_by_its_text(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the mount is gone")

    monkeypatch.setattr(stores, "SquareCache", fail)
    with pytest.warns(UserWarning, match="the mount is gone; training continues without it"):
        assert stores.open_cache(str(tmp_path), [], 16, {}) is None


def _train_within_a_limit(root, cache, reserve, connection):
    """Train with a limit on file sizes; in a forked process, because a limit cannot be raised again."""
    if not reserve:
        del os.posix_fallocate
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        found = views(root, cache) + views(root, cache)
    connection.send((found, [str(w.message) for w in caught]))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="takes posix_fallocate away")
@pytest.mark.parametrize("reserve", [True, False])
def test_a_file_that_cannot_grow_gives_one_warning(tiny_hc18, tmp_path, reserve):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    arguments = (tiny_hc18, tmp_path / "cache", reserve, theirs)
    process = context.Process(target=_train_within_a_limit, args=arguments)
    process.start()
    theirs.close()
    found, messages = ours.recv()
    process.join()
    assert process.exitcode == 0
    assert found == views(tiny_hc18, None) * 2
    (message,) = set(messages)  # each of the two data modules may warn
    assert "File too large" in message
    assert ("not all images are cached" in message) is not reserve


@pytest.fixture
def records(tmp_path):
    sizes = [(90, 60), (80, 120), (30, 20), (70, 70)]
    paths = [tmp_path / f"{i}.png" for i in range(len(sizes))]
    for seed, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        write_image(path, seed, size)
    return [Record("planes", path.name, path, str(i), plane="femur") for i, path in enumerate(paths)]


def dataset(records, cache=None):
    builder = PairBuilder(STUDENT, None, Augmentation())
    return PairDataset(
        records, builder, 3, "raise", cache and SquareCache(cache, records, builder.working_side)
    )


def test_cached_images_are_bit_identical_to_decoded_ones(records, tmp_path):
    plain, cached = dataset(records), dataset(records, tmp_path / "cache")
    for epoch in (0, 0, 1):
        for index in range(len(records)):
            expected, got = plain[epoch, index], cached[epoch, index]
            assert torch.equal(expected["student_image"], got["student_image"])
            assert expected["student_text"] == got["student_text"]


def test_a_second_read_opens_no_image(records, tmp_path, monkeypatch):
    cached = dataset(records, tmp_path / "cache")
    first = cached[0, 1]["student_image"]
    monkeypatch.setattr("datamodules.pairs.sample.read_image", lambda _: pytest.fail("decoded again"))
    assert torch.equal(first, cached[0, 1]["student_image"])


def test_a_changed_image_is_decoded_again(records, tmp_path):
    before = dataset(records, tmp_path / "cache")[0, 0]["student_image"]
    write_image(records[0].image, 99, (90, 61))
    assert not torch.equal(before, dataset(records, tmp_path / "cache")[0, 0]["student_image"])


def test_an_image_rewritten_at_the_same_size_is_decoded_again(tmp_path):
    path = tmp_path / "a.bmp"  # uncompressed: its size depends on the picture's shape only
    record = Record("planes", path.name, path, "1", plane="femur")
    sizes, views = [], []
    for seed in (1, 2):
        write_image(path, seed, (40, 30))
        os.utime(path, (seed, seed))  # a coarse clock may give both writes the same time
        sizes.append(path.stat().st_size)
        views.append(dataset([record], tmp_path / "cache")[0, 0]["student_image"])
    assert sizes[0] == sizes[1]
    assert not torch.equal(*views)


def test_images_with_and_without_overlays_are_cached_apart(records, tmp_path):
    for masked in (False, True, False, True):
        cache = SquareCache(tmp_path / "cache", records, 16, {"masked": masked})
        square, _ = cache.get(0, 0, lambda masked=masked: (np.full((16, 16), masked, np.uint8), (8, 8)))
        assert (square == masked).all()


ZOOMED = Augmentation(zoom=0.5)


def drawn_pairs(root, cache, alone=True, **options):
    """Return the student's view and text of two draws of each training image, twice; alone or beside the teacher's."""
    data = HC18DataModule(root=str(root), num_workers=0, draws=2, cache=cache and str(cache), **options)
    data.bind(STUDENT, TEACHER)
    pairs = data._pairs("train", data.augmentation, student_only=alone)
    keys = [(epoch, index) for epoch in range(4) for index in range(len(pairs))]
    return [(pairs[key]["student_image"].numpy().tobytes(), pairs[key]["student_text"]) for key in keys]


@pytest.mark.parametrize("alone", [True, False])
def test_kept_pictures_are_bit_identical_to_drawn_ones(tiny_hc18, tmp_path, monkeypatch, alone):
    plain = drawn_pairs(tiny_hc18, None, augmentation=ZOOMED)
    assert len(set(plain)) == len(plain) / 2
    assert drawn_pairs(tiny_hc18, tmp_path / "cache", alone, augmentation=ZOOMED) == plain
    monkeypatch.setattr(PairBuilder, "draw", lambda *_: pytest.fail("drawn again"))
    assert drawn_pairs(tiny_hc18, tmp_path / "cache", augmentation=ZOOMED) == plain


def test_pictures_of_other_settings_are_kept_apart(tiny_hc18, tmp_path):
    before = drawn_pairs(tiny_hc18, tmp_path / "cache", augmentation=ZOOMED)
    for change in ({"seed": 1}, {"augmentation": Augmentation(zoom=0.4)}, {"mask_overlays": True}):
        options = {"augmentation": ZOOMED, **change}
        changed = drawn_pairs(tiny_hc18, tmp_path / "cache", **options)
        assert changed == drawn_pairs(tiny_hc18, None, **options)
        assert changed != before


def test_a_square_drawn_at_another_zoom_is_drawn_again(records, tmp_path):
    cache = SquareCache(tmp_path / "cache", records, 4, draws=2)
    for zoom in (1.5, 1.25):  # of captions that were drawn by other code
        square, shape = cache.get(
            2, 1, lambda zoom=zoom: (np.full((4, 4), 100 * zoom, np.uint8), (9, 7)), zoom
        )
        assert (square == 100 * zoom).all()
        assert shape == (9, 7)
    assert (cache.get(2, 1, lambda: pytest.fail("not stored"), 1.25)[0] == 125).all()


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 5e-4)])
def test_embeddings_are_stored_and_read_after_reopening(tmp_path, half, tolerance):
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
    store = filled_store(tmp_path / "x", draws=2, images=20)
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


def filled_store(path, draws, images):
    store = TeacherStore(path, draws, images, dim=3)
    keys = store.missing()
    places = torch.tensor(keys, dtype=torch.float32)
    numbers = torch.cat((places, torch.zeros(len(keys), 1)), dim=1)
    store.put(keys, numbers, -numbers)
    return store


@pytest.mark.parametrize("workers", [0, 2])
def test_the_student_sees_the_stored_draws_and_embeddings(tiny_hc18, tmp_path, workers):
    options = {"batch_size": 6, "num_workers": workers, "zoom": 0.3, "draws": 2}
    data = HC18DataModule(root=str(tiny_hc18), **options)
    data.bind(STUDENT, TEACHER)
    plain = {key: data.draw_loader([key]) for key in [(0, 1), (1, 0), (1, 1)]}
    expected = {key: next(iter(loader)) for key, loader in plain.items()}
    data.use_teacher_store(filled_store(tmp_path / "store", 2, len(data.split("train"))))
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


def test_validation_uses_the_live_teacher(tiny_hc18, tmp_path):
    data = HC18DataModule(root=str(tiny_hc18), batch_size=6, num_workers=0, draws=2)
    data.bind(STUDENT, TEACHER)
    data.use_teacher_store(filled_store(tmp_path / "store", 2, len(data.split("train"))))
    batch = next(iter(data.val_dataloader()))
    assert "teacher_image" in batch
    assert "teacher_embedding" not in batch
