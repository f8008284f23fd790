"""A damaged file is refused before use, or what is read from it is what was written."""

import errno
import random
import shutil
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models import from_checkpoint, load_weights, save_half
from models.checkpoints.integrity import DamagedError, check_archive, tensors_digest
from models.checkpoints.weights import read_checkpoint, write_entry
from models.loading import check_vocabulary, student_entry

SHIPPED = Path(models.__file__).parent / "teachers" / "phantom.safetensors"


@pytest.fixture(scope="module", params=["torch", "safetensors"])
def written(request, tiny_student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    if request.param == "safetensors":
        path = folder / "kept.safetensors"
        save_half(tiny_student, path, run={"seed": 3})
        return path
    path = folder / "last.ckpt"
    state = {f"student.{name}": value for name, value in tiny_student.state_dict().items()}
    torch.save({"state_dict": state, "student": student_entry(tiny_student), "epoch": 3}, path)
    write_entry(path, "answers", {"none_below": 0.25})
    return path


def same(one, other):
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
    return one == other


@pytest.mark.faults
def test_a_flipped_bit_is_refused_or_changes_nothing(written, tmp_path):
    whole, raw = read_checkpoint(written), bytearray(written.read_bytes())
    path, dice, refused = tmp_path / written.name, random.Random(0), 0
    tail = max(0, len(raw) - 3000)  # the directory of an archive: the part of most consequence for its size
    for flip in range(120):
        place = dice.randrange(tail if flip % 4 == 0 else 0, len(raw))
        changed = bytearray(raw)
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
        try:
            found, message = read_checkpoint(path), None
        except ValueError as error:
            message = str(error)
        if message is None:
            assert same(found, whole), f"bit in byte {place} of {len(raw)}"
            continue
        refused += 1
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        assert len(message) - len(str(path)) < 300
    assert refused > 60


@pytest.mark.faults
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_refused(written, tmp_path, left):
    path = tmp_path / written.name
    path.write_bytes(written.read_bytes()[: int(written.stat().st_size * left)])
    with pytest.raises(DamagedError, match=r"^[^\n]*: damaged \([^\n]*\); copy or download it again[^\n]*$"):
        read_checkpoint(path)


def test_the_shipped_teacher_without_a_digest_in_its_header_is_checked(tmp_path):
    assert load_weights(SHIPPED)
    path = tmp_path / SHIPPED.name
    shutil.copyfile(SHIPPED, path)
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        byte = file.read(1)[0]
        file.seek(-1000, 2)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(DamagedError, match="digest of its header"):
        load_weights(path)


def test_weights_of_other_programs_have_no_digest_and_load(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "theirs.safetensors")
    assert torch.equal(load_weights(tmp_path / "theirs.safetensors")["weight"], torch.ones(2))


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), OSError, "Input/output error"),
        (MemoryError(), ValueError, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ValueError, "not enough memory"),
    ],
)
def test_what_the_machine_fails_at_does_not_make_a_file_damaged(tmp_path, monkeypatch, failure, kind, words):
    def fail(*_, **__):
        raise failure

    torch.save({}, tmp_path / "last.ckpt")
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(kind, match=words) as caught:
        read_checkpoint(tmp_path / "last.ckpt")
    assert not isinstance(caught.value, DamagedError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_an_entry_that_does_not_fit_on_the_disk_is_an_error_of_the_disk(tmp_path, monkeypatch):
    @contextmanager
    def full(_):
        yield Path("/dev/full")

    torch.save({"weight": torch.ones(9)}, tmp_path / "best.ckpt")
    monkeypatch.setattr("models.checkpoints.weights.atomic", full)
    with pytest.raises(OSError, match="No space left"):
        write_entry(tmp_path / "best.ckpt", "answers", {})


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (OSError(errno.EIO, "Input/output error"), OSError),
        (MemoryError(), MemoryError),
        (
            OSError(errno.EINVAL, "Invalid argument"),
            DamagedError,
        ),  # a seek to where a damaged directory points
        (zipfile.BadZipFile("no directory"), DamagedError),
    ],
)
def test_only_the_content_of_an_archive_makes_it_damaged(tmp_path, monkeypatch, failure, kind):
    def fail(*_):
        raise failure

    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(kind) as caught:
        check_archive(tmp_path / "last.ckpt")
    assert isinstance(caught.value, DamagedError) == (kind is DamagedError)


def test_a_digest_changes_with_every_name_type_shape_number_and_text_but_not_with_the_order():
    numbers, other = torch.arange(6, dtype=torch.int32), torch.zeros(2)
    kept = tensors_digest({"a": numbers, "b": other}, "text")
    assert tensors_digest({"b": other, "a": numbers}, "text") == kept
    assert len(kept) == 24
    changed = [
        {"a": numbers, "b": other, "c": other},
        {"c": numbers, "b": other},
        {"a": numbers.view(torch.float32), "b": other},
        {"a": numbers.reshape(2, 3), "b": other},
        {"a": numbers + 1, "b": other},
    ]
    digests = {tensors_digest(state, "text") for state in changed}
    assert len({kept, tensors_digest({"a": numbers, "b": other}, "another"), *digests}) == len(changed) + 2


def test_an_archive_of_arrays_is_checked_too(tmp_path):
    np.savez(tmp_path / "a.npz", vectors=np.arange(999.0))
    check_archive(tmp_path / "a.npz")


def test_a_vocabulary_with_two_swapped_lines_is_refused(written, tiny_student, tmp_path, monkeypatch):
    assert from_checkpoint(str(written)).embed_dim == tiny_student.embed_dim
    from models import loading
    from models.text import tokenizer

    lines = tokenizer.FETAL_VOCABULARY.read_text(encoding="utf-8").split()
    lines[700], lines[701] = lines[701], lines[700]
    swapped = {token: index for index, token in enumerate(lines)}
    monkeypatch.setattr(loading, "fetal_vocabulary", lambda: swapped)
    with pytest.raises(ValueError, match=r"trained with another fetal\.txt \(digest \w{16}, here \w{16}\)"):
        from_checkpoint(str(written))
    check_vocabulary({}, "a file without a compact vocabulary")
