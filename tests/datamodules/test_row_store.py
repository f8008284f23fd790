"""A row is read as it was written or not at all, whatever happens to the file, and a full disk ends nothing."""

import errno
import multiprocessing
import os
import pickle
import resource
import warnings

import numpy as np
import pytest

from datamodules import HC18DataModule
from datamodules.record import Record
from datamodules.row_store import RowStore
from datamodules.square_cache import SquareCache
from models import CLIP_MEAN, CLIP_STD, Preprocessing

VIEW = Preprocessing(32, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)
ROWS = [bytes(range(number, number + 20)) for number in range(3)]


def filled(path):
    store = RowStore(path, len(ROWS), len(ROWS[0]))
    for number, row in enumerate(ROWS):
        store.write(number, row)
    return store


def read_all(store):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return [store.read(number) for number in range(len(ROWS))], [str(w.message) for w in caught]


def test_rows_come_back_in_every_process(tmp_path):
    store = filled(tmp_path / "deep" / "x.rows")
    for reader in (store, RowStore(store.path, len(ROWS), 20), pickle.loads(pickle.dumps(store))):
        assert read_all(reader) == (ROWS, [])
    store.close()
    assert read_all(store) == (ROWS, [])
    store.clear()
    assert read_all(store) == ([None] * 3, [])
    assert store.path.stat().st_size == store.size


def test_no_changed_byte_is_read(tmp_path):
    """Every single byte of the file in turn, by the smallest change."""
    store = filled(tmp_path / "x.rows")
    whole = store.path.read_bytes()
    for place in range(len(whole)):
        store.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        damaged = place // (len(whole) // 3)
        rows, messages = read_all(RowStore(store.path, len(ROWS), 20))
        assert rows == [None if number == damaged else row for number, row in enumerate(ROWS)]
        assert messages == [f"{store.path}: row {damaged} is damaged and will be computed again"]


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 30, 71])
def test_a_truncated_file_gives_only_complete_rows(tmp_path, length):
    store = filled(tmp_path / "x.rows")
    os.truncate(store.path, length)
    expected = [row if length >= 24 * (number + 1) else None for number, row in enumerate(ROWS)]
    assert read_all(store)[0] == expected, "also in a process that has it open"
    assert read_all(RowStore(store.path, len(ROWS), 20))[0] == expected


def test_zeroed_misplaced_and_half_written_rows_are_absent(tmp_path):
    store = filled(tmp_path / "x.rows")
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
                square, shape = cache.get(
                    index, records[index], lambda r: (squares_of(int(r.name)), (50, 40))
                )
                if shape != (50, 40) or not np.array_equal(square, squares_of(index)):
                    with wrong.get_lock():
                        wrong.value += 1


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_no_wrong_pixel_in_100_starts_of_several_ranks(tmp_path, ranks):
    images = [tmp_path / f"{index}.png" for index in range(6)]
    for image in images:
        image.touch()
    records = [Record("planes", str(index), image, "") for index, image in enumerate(images)]
    context = multiprocessing.get_context("fork")  # a spawned process would import everything again
    barrier, wrong = context.Barrier(ranks), context.Value("i", 0)
    processes = [
        context.Process(target=_rank, args=(tmp_path, records, 100, barrier, wrong)) for _ in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * ranks
    assert wrong.value == 0
    for start in range(100):  # and what they left is right for later runs
        cache = SquareCache(tmp_path / str(start), records, 16)
        for index, record in enumerate(records):
            square, _ = cache.get(index, record, lambda _: pytest.fail("not stored"))
            assert np.array_equal(square, squares_of(index))


def views(root, cache):
    data = HC18DataModule(root=str(root), batch_size=6, num_workers=0, cache=cache and str(cache))
    data.bind(VIEW)
    return [batch["student_image"].numpy().tobytes() for batch in data.train_dataloader()]


def without_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_training_goes_on_without_space_for_the_cache(tiny_hc18, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", without_space, raising=False)
    line = f"{tmp_path / 'cache'}: No space left on device; training goes on without it"
    with pytest.warns(UserWarning, match=line) as caught:
        assert views(tiny_hc18, tmp_path / "cache") == views(tiny_hc18, None)
    assert len(caught) == 1
    assert list((tmp_path / "cache").iterdir()) == []


def _train_within_a_limit(root, cache, reserve, connection):
    """Forked, because a process cannot take back its limit; the kernel refuses to let any file grow beyond it."""
    if not reserve:
        del os.posix_fallocate
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        found = views(root, cache) + views(root, cache)
    connection.send((found, [str(w.message) for w in caught]))


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="takes posix_fallocate away")
@pytest.mark.parametrize("reserve", [True, False])
def test_a_file_that_cannot_grow_is_one_line(tiny_hc18, tmp_path, reserve):
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
    (message,) = messages
    assert "File too large" in message
    assert ("not all images are cached" in message) is not reserve
