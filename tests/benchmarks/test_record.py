"""Ways are timed in turns, spreads are percentiles, and a target is met or it is not."""

import json

import numpy as np
import pytest

from benchmarks._record import interleave, line, make_row, met, spread, write


def test_ways_are_timed_in_turns_that_alternate():
    order = []
    times = interleave({name: lambda name=name: order.append(name) for name in "abc"}, rounds=3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"
    assert all(values.shape == (3,) and (values >= 0).all() for values in times.values())


def test_spread_is_median_and_percentiles():
    assert spread(np.arange(101)) == {"median": 50.0, "p10": 10.0, "p90": 90.0}


@pytest.mark.parametrize(
    ("values", "target", "better", "expected"),
    [
        ([5, 6, 7], 6, "higher", True),
        ([5, 5.9, 7], 6, "higher", False),
        ([0.04], 0.05, "lower", True),
        ([0.06], 0.05, "lower", False),
        ([1], None, "higher", None),
    ],
)
def test_the_median_decides(values, target, better, expected):
    row = make_row("s", "c", "x", values, target=target, better=better)
    assert met(row) is expected
    assert ("MISSED" in line(row)) is (expected is False)


def test_a_record_names_machine_versions_and_commit(tmp_path):
    path = write("x", [make_row("s", "c", "x", [1.0])], quick=False, path=tmp_path / "x.json", more=3)
    record = json.loads(path.read_text())
    assert record["machine"]["cores"] >= 1
    assert "torch" in record["machine"]["versions"]
    assert record["commit"]
    assert record["details"] == {"more": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]
