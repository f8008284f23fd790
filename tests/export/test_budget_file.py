"""A budgets' file is checked whole before anything is timed; every mistake is one line that names file and key."""

import pytest
import yaml

from experiments.latency import BUDGETS
from export.coreml_package import COMPRESSIONS
from export.latency.backends import SMALLER
from export.latency.budget_file import read_budgets, settle_protocol

MISSING = object()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("ratios", MISSING, "lacks ratios"),
        ("ci", MISSING, "lacks ci"),
        ("budget", 1, "has no 'budget'"),
        ("protocol.rounds", MISSING, "protocol lacks rounds"),
        ("protocol.round", 3, "protocol has no 'round'; it takes rounds"),
        ("protocol.repeats", 2.5, "protocol.repeats: 2.5 is no whole number"),
        ("protocol.batches", [1, 0], "protocol.batches: 0 is no whole number"),
        ("ci.sustained_s", "long", "ci.sustained_s is a number above 0, not 'long'"),
        ("ci.scene_s", 0, "ci.scene_s is a number above 0"),
        ("yardstick", "torch-eagre", "yardstick: no backend 'torch-eagre'; there are torch-eager,"),
        ("ratios", [], r"ratios is a mapping, not \[\]"),
        ("ratios.onxruntime", {"at_least": 99}, "ratios.onxruntime: no backend 'onxruntime'"),
        ("ratios.onnxruntime", {"least": 2}, "ratios.onnxruntime has no 'least'; it takes at_least, reach"),
        ("ratios.onnxruntime", {"reach": 2}, "ratios.onnxruntime lacks at_least"),
        (
            "ratios.onnxruntime",
            {"at_least": "fast"},
            "ratios.onnxruntime.at_least is a number above 0, not 'fast'",
        ),
        ("ratios.onnxruntime", {"at_least": float("nan")}, "ratios.onnxruntime.at_least is a number above 0"),
        ("ratios.onnxruntime", None, "ratios.onnxruntime is a mapping, not None"),
        (
            "absolute",
            [{"device": "x", "ms": 1}],
            r"absolute\[0\] has no 'ms'; it takes device, backend, p50_ms",
        ),
        (
            "absolute",
            [{"device": "", "backend": "coreml-ane", "p50_ms": 1}],
            r"absolute\[0\].device is the name",
        ),
        (
            "absolute",
            [{"device": "x", "backend": "ane", "p50_ms": 1}],
            r"absolute\[0\].backend: no backend 'ane'",
        ),
        ("scene.frames_per_second", 30, "scene.frames_per_second is a list, not 30"),
        (
            "scene.dropped_share_at_most",
            {"30": 0.1},
            "scene.dropped_share_at_most: '30' is none of the rates",
        ),
        ("scene.dropped_share_at_most", {25: 0.1}, r"25 is none of the rates that are played, \[30, 60\]"),
        (
            "scene.dropped_share_at_most",
            {30: 10},
            "scene.dropped_share_at_most.30 is a share from 0 to 1, not 10",
        ),
    ],
)
def test_malformed_budgets_are_refused_by_name(tmp_path, place, value, message):
    content = yaml.safe_load(BUDGETS.read_text())
    *parents, last = place.split(".")
    part = content
    for key in parents:
        part = part[key]
    part.pop(last) if value is MISSING else part.update({last: value})
    path = tmp_path / "budgets.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as refused:
        read_budgets(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["a: [1", "- 1", ""])
def test_what_is_no_budgets_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "budgets.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"no YAML|a latency budget is a mapping") as refused:
        read_budgets(path)
    assert "\n" not in str(refused.value)


def test_our_own_budgets_pass_and_ci_is_the_short_protocol():
    budgets = read_budgets(BUDGETS)
    whole, short = settle_protocol(budgets, False), settle_protocol(budgets, True)
    assert short.rounds < whole.rounds
    assert (short.scene_s, whole.scene_s) == (2, 5)
    assert short.frames_per_second == whole.frames_per_second == [30, 60]


def test_every_smaller_core_ml_package_can_be_timed():
    assert {f"coreml-{kind}" for kind in COMPRESSIONS} < set(SMALLER)
