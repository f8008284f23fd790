"""Figures show what they were given, and as SVG keep their text and take the page's colours."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from figures.confusion import confusion_change_figure, confusion_figure
from figures.curves import Curve, Panel, curves_figure
from figures.embeddings import balanced_sample, embedding_figure, tsne
from figures.growth_chart import Chart, growth_chart_figure
from figures.images import image_figure
from figures.reliability import reliability_figure
from figures.style import CYCLE, INK, PALETTE, PAPER, looks, save_png, themed_svg
from figures.suite import capacity_figure, suite_figure

CONFUSION = [[3, 1, 0, 0], [0, 4, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0]]
CLASSES = ["a", "b", "never", "absent"]
HOSTILE = '"><script>alert(1)</script> $\\frac{1}{0}$'


def texts(found):
    return [text.get_text() for text in found]


def growth_chart(title: str = "title") -> Figure:
    weeks = np.linspace(13, 40, 20)
    chart = Chart(weeks, 8 * weeks, 9 * weeks, 10 * weeks, (100, 342), (14, 38.9))
    ages, hc = np.array([24.0, 24.0, 20.0, 30.0]), np.array([222.0, 300.0, 50.0, 280.0])
    counts, valid = np.array([True, True, False, True]), np.array([True, False, False, True])
    return growth_chart_figure(chart, ages, hc, counts, valid, title)


def curves() -> Figure:
    steps = np.arange(5.0)
    weight = Panel("weight", "w", [Curve("weight", steps, 2 - steps, INK)], is_weight=True)
    scores = [Curve(f"score {number}", steps, steps / 5, CYCLE[number], "o-", 0.5) for number in range(3)]
    return curves_figure([weight, Panel("scores", "s", scores, selected=(3, 0.6))], 4, 2.0)


def suite() -> Figure:
    scores = {"no-kd": [0.2, 0.3, 0.7], "static-kd": [0.5, 0.5], "srkd": [0.6, 0.65, 1.0]}
    rows = [(line, "F1", value) for line, values in scores.items() for value in values]
    frame = pd.DataFrame(rows, columns=["line", "column", "value"])
    return suite_figure(frame, {("srkd", "F1"): 0.75}, ["no-kd", "static-kd"], "title")


def capacity() -> Figure:
    """Two references at two sizes; every interval reaches farther up than down."""
    rows = [
        ("F1", over, count, size, value, value - 0.01, value + 0.03)
        for over, gain in (("no-kd", 0.1), ("static-kd", 0.2))
        for count, size, value in ((20_000, "1/100", gain), (400_000, "1/5", gain / 2))
    ]
    names = ["score", "over", "parameters", "size", "value", "low", "high"]
    return capacity_figure(pd.DataFrame(rows, columns=names), "title")


def every_figure() -> dict[str, Figure]:
    steps = np.arange(2.0)
    run = Curve("run", steps, steps, CYCLE[0], filled=[False, True], crossing=0.5)
    bins = [{"confidence": 0.3, "accuracy": 0.5, "count": 4}]
    return {
        "confusion": confusion_figure(CONFUSION, CLASSES, "title"),
        "change": confusion_change_figure(CONFUSION, CONFUSION, CLASSES, "title"),
        "growth": growth_chart(),
        "reliability": reliability_figure({"student": bins}, "title"),
        "curves": curves(),
        "overlay": curves_figure([Panel("title", "score", [run])], 1),
        "map": embedding_figure({"student": np.eye(4, 2)}, list("aabb"), "title"),
        "images": image_figure([np.zeros((4, 5), np.uint8)], ["brain"], [True]),
        "suite": suite(),
        "capacity": capacity(),
    }


def test_growth_chart_counts_what_it_shows():
    figure = growth_chart()
    (legend,) = figure.legends
    assert {"not assessed (1)", "outside the chart (1)", "within the chart (2)"} <= set(
        texts(legend.get_texts())
    )
    assert figure.get_suptitle() == "title"
    assert figure.axes[0].get_ylim()[0] <= 50.0


def test_growth_chart_places_every_head_in_its_group_and_dots_the_assessed_limits():
    axis = growth_chart().axes[0]
    offsets = {group.get_label(): group.get_offsets().tolist() for group in axis.collections}
    assert offsets["not assessed (1)"] == [[20.0, 50.0]]
    assert offsets["outside the chart (1)"] == [[24.0, 300.0]]
    assert offsets["within the chart (2)"] == [[24.0, 222.0], [30.0, 280.0]]
    dotted = [list(line.get_ydata()) for line in axis.lines if line.get_linestyle() == ":"]
    assert dotted == [[100, 100], [342, 342]]
    (selectable,) = axis.patches
    assert (selectable.get_x(), selectable.get_width()) == pytest.approx((14, 24.9))


def test_confusion_shows_shares_counts_and_only_classes_that_matter():
    axes = confusion_figure(CONFUSION, CLASSES, "student", {"a": 0.8, "b": 0.75}).axes[0]
    assert texts(axes.get_xticklabels()) == ["a", "b", "absent *"]
    assert texts(axes.get_yticklabels()) == ["a (4)\nF1 0.80", "b (6)\nF1 0.75"]
    assert texts(axes.texts) == ["75%\n3", "25%\n1", "", "", "67%\n4", "33%\n2"]


def test_a_change_of_confusions_is_blue_where_it_is_better():
    axes = confusion_change_figure([[2, 2], [0, 4]], [[4, 0], [1, 3]], ["a", "b"], "t").axes[0]
    assert texts(axes.texts) == ["+50", "−50", "+25", "−25"]  # noqa: RUF001 - minus signs
    blue, red = (pytest.approx(np.array(rgb) / 255) for rgb in ((0x00, 0x72, 0xB2), (0xC6, 0x4E, 0x00)))
    assert [patch.get_facecolor()[:3] for patch in axes.patches] == [blue, blue, red, red]


def test_reliability_shows_every_bin():
    bins = [
        {"confidence": 0.3, "accuracy": 0.5, "count": 4},
        {"confidence": 0.9, "accuracy": 0.7, "count": 12},
    ]
    dots = reliability_figure({"student": bins}, "student").axes[0].collections[1]
    assert dots.get_offsets().tolist() == [[0.3, 0.5], [0.9, 0.7]]
    assert (dots.get_sizes() - 12).tolist() == pytest.approx([37.5, 112.5])  # areas as 4 to 12


def test_training_curves_mark_the_crossing_and_fill_the_weight():
    weight, scores = curves().axes
    assert texts(weight.texts) == ["zero at step 2"]
    assert texts(weight.get_legend().get_texts()) == ["attract", "repel"]
    assert texts(scores.get_legend().get_texts()) == ["score 0", "score 1", "score 2"]
    assert [line.get_xdata()[0] for line in (weight.lines[0], scores.lines[0])] == [2.0, 2.0]
    for axis in (weight, scores):
        (shaded,) = axis.patches
        assert (shaded.get_x(), shaded.get_width()) == (2.0, 2.0), "from the crossing to the last step"


def test_dots_are_filled_where_they_are_said_to_be():
    steps, filled = np.arange(3.0), [False, True, True]
    run = Curve("run", steps, steps / 2, CYCLE[0], filled=filled)
    (dots,) = curves_figure([Panel("title", "score", [run])], 2).axes[0].collections
    assert dots.get_offsets().tolist() == [[0, 0], [1, 0.5], [2, 1]]
    assert [to_hex(colour) for colour in dots.get_facecolors()] == [PAPER, CYCLE[0], CYCLE[0]]
    assert {to_hex(colour) for colour in dots.get_edgecolors()} == {CYCLE[0]}


def test_a_suite_shows_the_mean_of_every_line_and_the_first_baselines_through_all():
    figure = suite()
    (axis,) = figure.axes
    assert texts(axis.get_yticklabels()) == ["no-kd", "static-kd", "srkd"]
    means = [group.get_segments()[0] for group in axis.collections if group.get_label() == "mean"]
    assert [bar[:, 0].tolist() for bar in means] == [pytest.approx([x, x]) for x in (0.4, 0.5, 0.75)]
    assert [bar[:, 1].mean() for bar in means] == pytest.approx([0, 1, 2])
    runs = [group.get_offsets() for group in axis.collections if group.get_label() == "a run"]
    assert [sorted(dots[:, 0].tolist()) for dots in runs] == [[0.2, 0.3, 0.7], [0.5], [0.6, 0.65, 1.0]]
    (dashed,) = axis.lines
    assert dashed.get_linestyle() == "--"
    assert list(dashed.get_xdata()) == pytest.approx([0.4, 0.4])


def test_gains_have_their_own_intervals_and_the_largest_student_left():
    (axis,) = capacity().axes
    expected = {"over no-kd": [0.05, 0.1], "over static-kd": [0.1, 0.2]}
    assert len(axis.containers) == len(expected)
    for container in axis.containers:
        points, _, (intervals,) = container.lines
        gains = expected[container.get_label()]
        assert list(points.get_ydata()) == pytest.approx(gains)
        assert list(points.get_xdata()) == pytest.approx([400_000, 20_000], rel=0.05)
        ends = [segment[:, 1].tolist() for segment in intervals.get_segments()]
        assert ends == [pytest.approx([gain - 0.01, gain + 0.03]) for gain in gains]
    left, right = axis.get_xlim()
    assert left > right
    assert texts(axis.get_xticklabels()) == ["20 k\n1/100", "400 k\n1/5"]


def test_a_map_gives_every_image_its_own_class():
    points, labels = np.arange(10.0).reshape(5, 2), ["b", "a", "b", "c", "a"]
    (axis,) = embedding_figure({"student": points}, labels).axes
    offsets = {group.get_label(): group.get_offsets().tolist() for group in axis.collections}
    assert offsets == {"a (2)": [[2, 3], [8, 9]], "b (2)": [[0, 1], [4, 5]], "c (1)": [[6, 7]]}


def test_twenty_classes_of_a_map_differ_in_colour_or_marker():
    (axis,) = embedding_figure({"student": np.eye(20, 2)}, [f"class {n:02d}" for n in range(20)]).axes
    looks = {
        (*group.get_facecolor()[0], group.get_paths()[0].vertices.tobytes()) for group in axis.collections
    }
    assert len(looks) == 20


def test_clusters_stay_apart_the_map_repeats_and_collapsed_embeddings_are_no_error():
    generator = np.random.default_rng(0)
    points = np.repeat(np.eye(3, 8), 20, axis=0) + 0.01 * generator.normal(size=(60, 8))
    points = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    labels = np.repeat(["a", "b", "c"], 20)
    place = tsne(points)
    assert np.array_equal(place, tsne(points))
    centres = np.stack([place[labels == name].mean(axis=0) for name in "abc"])
    nearest = np.linalg.norm(place[:, None] - centres, axis=2).argmin(axis=1)
    assert (np.array(list("abc"))[nearest] == labels).all()
    same = np.tile(np.eye(1, 8, dtype=np.float32), (12, 1))
    assert np.ptp(tsne(same)) == 0
    half = np.vstack([same, points[:20]])  # many points that coincide, and some that do not
    assert np.isfinite(tsne(half)).all()
    with pytest.raises(ValueError, match="not finite"):
        tsne(np.full((8, 4), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="too few"):
        tsne(points[:3])
    figure = embedding_figure({"student": place, "teacher": place}, list(labels), "maps")
    assert [axes.get_title() for axes in figure.axes] == ["student", "teacher"]
    assert texts(figure.legends[0].get_texts()) == ["a (20)", "b (20)", "c (20)"]


def test_every_figure_becomes_svg_with_text_in_the_pages_colours(tmp_path):
    for name, figure in every_figure().items():
        svg = themed_svg(figure, name)
        colours = set(re.findall(r"#[0-9a-f]{6}\b", svg))
        assert not colours, (name, colours)
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(PALETTE)
        assert "<text" in svg
    save_png(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["confusion", "growth", "reliability"])
def test_the_longest_title_of_an_evaluation_is_not_cut_off(name):
    title = "student, subplanes, test patients\n814 of 814 valid: 100.0 % [100.0, 100.0]"
    draw = {
        "confusion": lambda: confusion_figure(CONFUSION, ["trans-ventricular", *CLASSES[1:]], title),
        "growth": lambda: growth_chart(title),
        "reliability": lambda: reliability_figure({}, title),
    }
    figure = draw[name]()
    figure.canvas.draw()
    box = figure._suptitle.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


def test_names_cannot_leave_an_svg_and_no_two_share_identifiers():
    figure = confusion_figure([[1, 0], [0, 1]], [HOSTILE, "b"], HOSTILE)
    svg = themed_svg(figure, HOSTILE)
    assert "<script" not in svg
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (svg, themed_svg(figure, "another"))]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert themed_svg(figure, HOSTILE) == svg


def test_colours_repeat_with_another_line_style():
    styles = looks("red", "blue")
    assert [next(styles) for _ in range(3)] == [("red", "-"), ("blue", "-"), ("red", "--")]


def test_classes_are_drawn_as_evenly_as_they_allow():
    classes = ["a"] * 50 + ["b"] * 3 + ["c"] * 50
    chosen = balanced_sample(classes, 20)
    counts = {name: sum(classes[n] == name for n in chosen) for name in "abc"}
    assert counts["b"] == 3
    assert abs(counts["a"] - counts["c"]) <= 1
    assert len(chosen) == len(set(chosen)) == 20
    assert chosen == balanced_sample(classes, 20)
    assert balanced_sample(["a", "b", "a"], 20) == [0, 1, 2]
