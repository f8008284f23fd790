"""Atomic writes, strict JSON and digests."""

import json
import os
import re

import pytest

from models.files import atomic, atomic_folder, digest, package_versions, read_yaml, sha256, write_json


def fail_half_way(path):
    with atomic(path) as partial:
        assert partial.suffix == ".json"
        partial.write_text("half")
        raise RuntimeError


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(RuntimeError):
        fail_half_way(path)
    assert json.loads(path.read_text()) == {"x": 1}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("write", [atomic, atomic_folder])
def test_what_a_killed_process_left_is_removed_and_nothing_of_another(tmp_path, write):
    for name in ("a.json", "b.json"):
        child = os.fork()
        if child == 0:
            with write(tmp_path / name) as partial:
                (partial / "half" if partial.is_dir() else partial).write_text("half")
                os._exit(9)
        os.waitpid(child, 0)
    left, other = sorted(tmp_path.iterdir())
    live = left.with_name(re.sub(r"-\d+\.partial", f"-{os.getppid()}.partial", left.name))
    elsewhere = left.with_name(re.sub(r"-(\d+)\.partial", r"-2-\1.partial", left.name))  # machine "HERE-2"
    live.touch()
    elsewhere.touch()
    with write(tmp_path / "a.json") as partial:
        partial.touch()
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.json", live, elsewhere, other])


def test_a_folder_is_replaced_only_when_it_is_finished(tmp_path):
    target = tmp_path / "new" / "page"
    for text in ("old", "new"):
        with atomic_folder(target) as partial:
            (partial / text).touch()
    with pytest.raises(FileNotFoundError), atomic_folder(target) as partial:
        (partial / "absent" / "half").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    target = tmp_path / ("x" * 255)  # the temporary name is longer than a name may be
    with pytest.raises(OSError, match=f"{target}'$"), atomic_folder(target):
        pass


def test_json_has_no_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": [float("nan"), (1.5, float("inf"))]})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "x": [None, [1.5, None]]
    }


def test_a_folder_is_identified_by_names_and_contents_but_not_by_hidden_files(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a").write_text("x")
    (tmp_path / "two" / ".DS_Store").write_text("noise")
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    (tmp_path / "three" / "sub" / "a").rename(tmp_path / "three" / "sub" / "b")
    assert sha256(tmp_path / "one") != sha256(tmp_path / "three")
    with pytest.raises(FileNotFoundError):
        sha256(tmp_path / "none")


def test_a_digest_ignores_the_order_of_keys():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    assert len(digest("x")) == 16


def test_absent_packages_are_named():
    found = package_versions("torch", "no-such-package")
    assert found["no-such-package"] == "not installed"
    assert found["torch"][0].isdigit()


def test_a_key_that_is_given_twice_is_named_with_its_place(tmp_path):
    path = tmp_path / "latency.yaml"
    path.write_text("base: &base {rounds: 3}\nrun:\n  <<: *base\n  rounds: 4\n")
    assert read_yaml(path)["run"] == {"rounds": 4}, "a merged key may be overridden"
    path.write_text("run:\n  rounds: 3\n  rounds: 4\n")
    with pytest.raises(
        ValueError, match=r"latency\.yaml: not YAML \(line 2: the key rounds is given twice\)"
    ):
        read_yaml(path)
