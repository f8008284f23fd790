"""The ledger as a table, and the figures of its rows by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from export.graphs.heads import ClassHead
from export.parity.ledger import DROPPED, FAILED, OK, Row, failures, few_frames, judge, markdown_ledger
from export.parity.measure import measure, task_scores, text_row
from export.variants import Variant
from models.zero_shot import AgeTable

GATES = {"any": {}, "text": {"cosine_min": 0.9}}


def test_the_table_has_each_figure_in_its_unit_and_one_row_for_what_did_not_run_for_one_reason():
    rows = [
        Row("torch-eager", "", status=OK, frames=200, tasks={"planes/f1": 0.91234, "hc18/validity": 71.456}),
        Row("a", "", status=OK, frames=12, figures={"cosine_min": 0.9999994, "difference_max": 1.3e-4}),
        Row(
            "b",
            "",
            status=FAILED,
            frames=200,
            figures={"difference_mean": 2e-5, "flip_rate": 0.015},
            note="why",
        ),
        Row("c", "", status=FAILED, note="why"),
        Row("d", "", note="no Mac"),
        Row("e", "", note="absent"),
        Row("f", "", note="no Mac"),
    ]
    head, line, *table = [text.strip("| ").split(" | ") for text in markdown_ledger(rows).splitlines()]
    assert head == [
        "variant", "status", "frames", "cosine min", "diff max", "diff mean", "flip rate", "five-plane F1",
        "brain sub-plane F1", "HC18 validity, %", "note",
    ]  # fmt: skip
    assert line == ["---", *["---:"] * 10]
    assert [cells[:10] for cells in table] == [
        ["torch-eager", "ok", "200", "-", "-", "-", "-", "0.9123", "-", "71.46"],
        ["a", "ok", "12 *", "0.999999", "1.3e-04", "-", "-", "-", "-", "-"],
        ["b", "FAILED", "200", "-", "-", "2.0e-05", "1.50%", "-", "-", "-"],
        ["c", "FAILED", *["-"] * 8],
        ["d, f", "NOT RUN", *["-"] * 8],
        ["e", "NOT RUN", *["-"] * 8],
    ]
    assert [cells[10:] for cells in table] == [[], [], ["why"], ["why"], ["no Mac"], ["absent"]]


def test_the_points_lost_in_the_file_are_the_largest_of_100_and_only_failed_rows_are_failures():
    tasks = {"planes/f1": 0.885, "hc18/validity": 78.0, "subplanes/f1": 0.1}
    row = Row(
        "a", "", status=DROPPED, tasks=tasks, reference_tasks={"planes/f1": 0.90, "hc18/validity": 80.0}
    )
    assert row.to_dict()["points_lost"] == pytest.approx(2.0)
    assert Row("a", "").to_dict()["points_lost"] is None
    assert failures([row, Row("b", "", status=OK)]) == ""
    assert failures([row, Row("c", "", status=FAILED, note="why")]) == "row c: why"


@pytest.mark.parametrize(
    ("gate", "note"), [("text", ""), ("task", "task metrics not judged: the weights are random")]
)
def test_only_a_row_that_would_be_judged_by_its_task_says_that_random_weights_are_not(gate, note):
    row = Row("a", "", gate, figures={"cosine_min": 0.95})
    judge(row, {**GATES, "task": {"cosine_min": 0.9, "points_lost_max": 1.0}}, trained=False)
    assert (row.status, row.note) == (OK, note)


def test_flips_are_counted_over_all_heads_and_differences_over_all_probabilities():
    exact = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    output = np.eye(3, dtype=np.float32)[[0, 2, 2, 1]]  # two of four frames
    heads = {
        "planes": ClassHead("planes", {"a": [], "b": [], "c": []}, torch.eye(3)),
        "subplanes": ClassHead(
            "subplanes", {"a": [], "b": []}, torch.tensor([[1.0, 0, 0], [0, 1, 1]])
        ),  # one of four
    }
    probabilities = exact * np.float32(0.9) + np.float32(0.03)
    frames = SimpleNamespace(
        rows={"planes": [0, 1, 2, 3]},
        labels=lambda _: ["a", "b", "c", "a"],
        records=[None] * 4,
        batches=lambda: [np.zeros((4, 3, 2, 2), np.float32)],
        whole=lambda: iter(exact),
        spacings=dict,
    )
    variants = [
        Variant("encoder", "", "any", lambda _: output),
        Variant("whole", "", "any", lambda frame: frame[None], whole=True),
        Variant("classifier", "", "any", lambda _: probabilities, head="planes"),
        Variant("wrong", "", "any", lambda _: output, head="planes"),
        Variant("overflows", "", "any", lambda _: np.full_like(output, np.nan)),
    ]
    _, encoder, whole, classifier, wrong, overflows = measure(
        lambda _: exact, variants, frames, heads, None, GATES, trained=True
    )
    assert encoder.figures["flip_rate"] == 3 / 8
    assert (overflows.status, overflows.note) == (FAILED, "its output is not finite")
    assert (whole.figures["flip_rate"], whole.figures["difference_max"]) == (0, 0)
    assert classifier.figures["flip_rate"] == 0
    assert classifier.figures["difference_max"] == pytest.approx(0.07)
    assert classifier.figures["difference_mean"] == pytest.approx((0.07 + 2 * 0.03) / 3)
    assert (wrong.figures["flip_rate"], wrong.reference_tasks) == (0.5, {"planes/f1": 1.0})
    # F1 of a: one of two found, none wrong, 2/3; of b: one frame, which is not one, 0; of c: both, one wrong, 2/3
    assert wrong.tasks["planes/f1"] == encoder.tasks["planes/f1"] == pytest.approx(4 / 9)
    assert wrong.points_lost == pytest.approx(100 * 5 / 9)


def test_heads_at_a_spacing_that_the_table_lacks_are_not_scored():
    ages = AgeTable(("0.10",), torch.ones(1, 175, 3))
    frames = SimpleNamespace(rows={"hc18": [0]}, spacings=lambda: {"hc18": ["0.20"]})
    for table in (ages, None):
        assert task_scores(np.eye(3, dtype=np.float32), frames, {}, table) == {}


@pytest.mark.parametrize(("found", "status"), [([0.8, 0.6], FAILED), ([1.0, 0.1], OK)])
def test_a_text_encoder_is_judged_by_its_own_gate(found, status):
    expected = np.array([[1.0, 0.0]], np.float32)
    row = text_row(np.zeros((1, 4), np.int64), expected, lambda _: np.array([found], np.float32), GATES)
    assert (row.status, row.frames) == (status, 1)


@pytest.mark.parametrize(
    ("fewest", "limit", "said"), [(30, 1.0, "30 frames weighs 3.3 points"), (100, 1.0, ""), (30, 4.0, "")]
)
def test_a_gate_that_one_frame_can_miss_says_so(fewest, limit, said):
    note = few_frames(Row("onnx-int8", "", "compressed"), fewest, {"compressed": {"points_lost_max": limit}})
    assert said in note
    assert bool(note) == bool(said)


def test_a_gate_without_task_metrics_has_no_doubt_about_few_frames():
    assert few_frames(Row("coreml-int8", "", "packages"), 3, {"packages": {"cosine_min": 0.99}}) == ""
