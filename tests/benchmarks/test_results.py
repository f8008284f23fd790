"""The stored results can be traced: their commits exist."""

import json
import subprocess

import pytest

from benchmarks._record import RESULTS, ROOT


def git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def history():
    """A checkout that has all commits."""
    shallow = git("rev-parse", "--is-shallow-repository")
    if shallow.returncode:
        pytest.skip("this is no git checkout")
    if shallow.stdout.strip() == "true":
        pytest.skip("a shallow checkout lacks the commits that the results were measured at")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_were_measured_at_a_commit_of_this_repository(path):
    commit = json.loads(path.read_text(encoding="utf-8"))["commit"]
    assert commit, f"{path.name} names no commit"
    assert git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0, f"{path.name}: no commit {commit}"
