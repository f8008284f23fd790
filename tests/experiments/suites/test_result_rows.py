"""Which runs are rows of a data preset, what their rows keep, and how comparisons are printed."""

import json

import pandas as pd
import pytest

from experiments.suites.differences import texts
from experiments.suites.result_rows import refresh, row_of
from experiments.suites.suite_runs import has_results


def put(outputs, data, arguments=(), **more):
    """Write a finished run of a suite; return its folder."""
    folder = outputs / "srkd" / f"reproduce-{data}-s1"
    folder.mkdir(parents=True)
    record = {
        "experiment": "srkd", "data": data, "seed": 1, "details": {}, "selection": {"monitor": "m"}, "metrics": {},
        "parameters": {}, "steps": 1, "seconds": 1.0, "finished": "2026", "git_commit": "abc", "machine": {},
        "versions": {"python": "3", "torch": "2", "lightning": "2"},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(record | more))
    request = {"arguments": [*arguments], "digests": {}, "trained_on": {}}
    (folder / "request.json").write_text(json.dumps(request))
    return folder


def test_a_preset_whose_name_begins_with_anothers_is_another(tmp_path):
    put(tmp_path, "table")
    (put(tmp_path, "table-small") / "results.json").write_text("{}")
    assert [row["data"] for row in refresh("table", tmp_path, tmp_path / "rows")] == ["table"]


def test_a_quick_run_is_no_row(tmp_path):
    assert not has_results(tmp_path)
    assert not has_results(put(tmp_path, "hc18", run={"quick": True}))
    assert has_results(put(tmp_path, "planes", run={"quick": False}))
    assert refresh("hc18", tmp_path, tmp_path / "rows") == []


@pytest.mark.parametrize(
    ("argument", "kept"),
    [
        ("--student=/home/ada/own.pt", ["--student=own.pt"]),
        ("--data.init_args.images=/home/ada/raw", ["--data.init_args.images=raw"]),
        ("--biometry.cache=/tmp/ages", []),
        ("--data.num_workers=3", []),
        ("--data.zoom=0.3", ["--data.zoom=0.3"]),
    ],
)
def test_rows_keep_arguments_with_an_effect_and_no_folders(tmp_path, argument, kept):
    assert row_of(put(tmp_path, "hc18", [argument]))["arguments"] == kept


def test_corrected_p_values_are_printed_and_what_no_design_detects_is_none():
    comparison = {"value": 2.34, "low": -1.0, "high": 5.0, "p": 0.0004, "seeds": 3, "patients": 50}
    names = {"reference": "no-kd", "experiment": "srkd", "benchmark": "hc18"}
    rows = [
        names | comparison | {"holm": 0.0024, "detectable": 4.56},
        names | comparison | {"holm": 0.0009, "detectable": float("nan")},
    ]
    found = texts(pd.DataFrame(rows))
    assert found["p (Holm)"].tolist() == ["0.002", "< 0.001"]
    assert found["smallest detectable"].tolist() == ["4.6", "none"]
    assert found["difference"].tolist() == ["+2.3"] * 2
    assert found["95 % interval"].tolist() == ["-1.0 to +5.0"] * 2
