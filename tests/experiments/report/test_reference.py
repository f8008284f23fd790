"""What two runs of a report should share: weights and prompts go by their content."""

from copy import deepcopy
from dataclasses import replace

import pytest

from experiments.report.read_run import read_run
from experiments.report.reference import differing_settings


@pytest.fixture
def two(make_run):
    return read_run(make_run()), read_run(make_run("static-kd", weights=(1, 1)))


def taught(run, path, digest):
    """The run with a teacher from this file of this content."""
    config = deepcopy(run.config)
    config["model"]["teacher"] = {"class_path": "models.from_checkpoint", "init_args": {"path": path}}
    return replace(run, config=config, record=run.record | {"run": {"teacher": {"sha256": digest}}})


@pytest.mark.parametrize(
    ("path", "digest", "named"), [("b.ckpt", "1", []), ("a.ckpt", "2", ["teacher"]), ("a.ckpt", "1", [])]
)
def test_a_teacher_may_move_but_not_change(two, path, digest, named):
    run, other = two
    assert [*differing_settings(taught(run, "a.ckpt", "1"), taught(other, path, digest))] == named


def test_other_prompts_are_a_difference(two):
    run, other = two
    assert differing_settings(run, other) == {}
    record = deepcopy(other.record)
    record["details"]["student"]["hc18"]["protocol"] = "f00"
    (name,) = differing_settings(run, replace(other, record=record))
    assert name == "prompts of hc18"
