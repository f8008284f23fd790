"""Finished runs of a suite on disk, and what `make table` prints of them."""

import json

import pytest

from experiments.commands.results import table as main

HEADS = {"samples": [{"name": "x", "patient": "Ada", "target": "HC", "assessed": True, "correct": True}]}


def record(experiment, seed, validity, planes, subplanes):
    metrics = {}
    for model, shift in (("teacher", None), ("student", 0.0), ("random", -0.4)):
        scores = (
            (0.9, 0.8, 70.0) if shift is None else (planes + shift, subplanes + shift, validity + 100 * shift)
        )
        keys = ("planes/f1", "subplanes/f1", "hc18/validity")
        metrics |= {f"{model}/{key}": value for key, value in zip(keys, scores, strict=True)}
    metrics |= {"constant/hc18/age_days": 141.0, "constant/hc18/validity": 59.1}
    metrics |= {"constant/planes/f1": 0.1, "constant/subplanes/f1": 0.2, "pixel_size/hc18/validity": 64.1}
    for model in ("teacher", "student", "random", "constant"):
        planes, subplanes = (metrics[f"{model}/{name}/f1"] for name in ("planes", "subplanes"))
        metrics[f"{model}/eight_class/f1"] = (5 * planes + 3 * subplanes) / 8
    return {
        "experiment": experiment, "data": "phantom", "seed": seed, "metrics": metrics,
        "details": {"student": {"planes": {"split": "test", "protocol": "abc"}, "probe": {}, "hc18": HEADS}},
        "selection": {"monitor": "val/composite", "score": 0.5, "checkpoint": "x"},
        "parameters": {"student": 1_230_000, "teacher": 5}, "steps": 9, "seconds": 1.5, "finished": "2026",
        "git_commit": "abc", "versions": {"python": "3.11", "torch": "2", "lightning": "2", "wandb": "0"},
        "machine": {"cpus": 2},
    }  # fmt: skip


def put(outputs, experiment, seed, *scores, arguments=(), **more):
    folder = outputs / experiment / f"reproduce-phantom-s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    request = {"arguments": list(arguments), "digests": {}, "trained_on": {}, **more}
    (folder / "request.json").write_text(json.dumps(request))
    (folder / "results.json").write_text(json.dumps(record(experiment, seed, *scores)))


@pytest.fixture
def outputs(tmp_path):
    put(tmp_path, "srkd", 1, 60.0, 0.90, 0.70)
    put(tmp_path, "srkd", 2, 64.0, 0.94, 0.79)
    put(tmp_path, "no-kd", 1, 50.0, 0.80, 0.60)
    (tmp_path / "srkd" / "reproduce-phantom-s3").mkdir()  # still running
    (tmp_path / "srkd" / "reproduce-phantom-s3" / "request.json").write_text('{"arguments": []}')
    (tmp_path / "srkd" / "phantom-s0-20260101").mkdir()  # a run outside any suite
    (tmp_path / "srkd" / "phantom-s0-20260101" / "results.json").write_text(
        json.dumps(record("srkd", 0, 1, 1, 1))
    )
    return tmp_path


@pytest.fixture
def make_table(outputs, tmp_path, capsys):
    """Return what `make table` prints of the outputs."""

    def make_table(*options):
        assert main(["phantom", f"--outputs={outputs}", f"--results={tmp_path / 'rows'}", *options]) == 0
        return capsys.readouterr().out

    return make_table
