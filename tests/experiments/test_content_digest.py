"""Weights and prompts are told by what is in them."""

import hashlib
import shutil

import pytest

from datamodules.protocol import DEFAULT_PROTOCOL, Protocol
from experiments.content_digest import content_digest, content_digests


@pytest.fixture
def saved(tmp_path):
    """A folder as `transformers` saves a model."""
    folder = tmp_path / "saved"
    (folder / "tokenizer").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer/vocab.json"):
        (folder / name).write_text(name)
    return folder


def test_a_files_digest_is_the_beginning_of_sha256(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(bytes(range(256)) * 1000)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert content_digest(path) == expected
    assert content_digest(path.rename(tmp_path / "other.pt")) == expected


def test_a_folders_digest_goes_with_what_is_in_it(saved, tmp_path):
    digest = content_digest(saved)
    assert len(digest) == 16
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "downloaded").write_text("yesterday")
    assert content_digest(copy) == digest
    (copy / "tokenizer" / "vocab.json").write_text("other")
    changed = content_digest(copy)
    assert changed != digest
    (copy / "tokenizer" / "vocab.json").rename(copy / "vocab.json")
    assert content_digest(copy) not in (digest, changed)


def test_linked_files_are_followed(saved, tmp_path):
    """The cache of a download holds links to files of other names."""
    linked = tmp_path / "linked"
    (linked / "tokenizer").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer/vocab.json"):
        (linked / name).symlink_to(saved / name)
    assert content_digest(linked) == content_digest(saved)


def test_weights_and_prompts_have_digests_and_other_arguments_none(saved, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    first, last = tmp_path / "a", tmp_path / "b"
    found = content_digests(
        [
            f"--teacher={first}",
            f"--student={saved}",
            f"--protocol={DEFAULT_PROTOCOL}",
            "--trainer.max_epochs=2",
            f"--teacher={last}",
        ]
    )
    assert found == {
        "--teacher": content_digest(last),
        "--student": content_digest(saved),
        "--protocol": Protocol.load().digest,
    }
    assert content_digests(["--trainer.max_epochs=2"]) == {}


@pytest.mark.parametrize("option", ["--teacher", "--student", "--protocol"])
def test_what_names_no_file_is_refused(option, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{option[2:].upper()}=.*nowhere: no such file"):
        content_digests([f"{option}={tmp_path / 'nowhere'}"])
    with pytest.raises(ValueError, match=f"{option}: give a path"):
        content_digests([f"{option}="])
