"""Differences over seeds, SRKD's gain by size of the student, and the tables in the documents."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.metrics import f1_score

from experiments.outcomes import contrast_outcomes, outcomes_of
from experiments.paper import COMPARISONS, STUDENTS, SUITES, TITLES
from experiments.suites.differences import capacity, differences, texts
from experiments.suites.documents import DOCUMENTS, MARKED, ROOT, fill, fill_documents
from experiments.suites.result_rows import RESULTS, read_rows
from experiments.suites.table import rows_with, write_tables

CLASSES = ("a", "b", "c")


def details_of(skill, seed, images=150, patients=50):
    """Details of five-plane F1 and validity of the same images and patients for every skill and seed."""
    generator = np.random.default_rng([seed, round(1000 * skill)])
    lucky = generator.random(images) < skill
    planes = [
        {
            "name": f"{n}", "patient": f"{n % patients:03d}", "target": CLASSES[n % 3],
            "prediction": CLASSES[n % 3 if lucky[n] else generator.integers(3)],
        }
        for n in range(images)
    ]  # fmt: skip
    heads = [{**row, "target": "HC", "correct": bool(lucky[n])} for n, row in enumerate(planes)]
    return {"planes": {"classes": CLASSES, "samples": planes}, "hc18": {"samples": heads}}


def row(experiment, seed, skill, student="", **more):
    details = details_of(skill, seed)
    return {
        "experiment": experiment, "data": "phantom", "seed": seed, "student": student, "arguments": [], "digests": {},
        "protocol": {"hc18": "abc"}, "split": {"hc18": "test"}, "trained_on": {}, "monitor": "val/composite",
        "parameters": {"student": 500_000}, "steps": 9, "finished": "2026-01-01", "git_commit": "abc",
        "metrics": {"student/hc18/validity": 100 * np.mean([s["correct"] for s in details["hc18"]["samples"]])},
        "outcomes": {name: outcomes_of(one) for name, one in details.items()},
    } | more  # fmt: skip


SKILLS = {"no-kd": 0.3, "static-kd": 0.5, "repulsive-r-0.8": 0.5, "srkd": 0.8}


@pytest.fixture
def rows():
    return [row(name, seed, skill) for name, skill in SKILLS.items() for seed in (1, 2, 3)]


def test_differences_are_those_of_the_means_over_shared_seeds(rows):
    rows.append(row("srkd", 4, 0.8))  # without a partner
    found = differences(rows).set_index(["reference", "experiment", "benchmark"])
    assert [*found.index.unique("reference")] == ["no-kd", "static-kd"]
    one = found.loc[("static-kd", "srkd", "hc18")]
    mean = {
        name: np.mean([r["metrics"]["student/hc18/validity"] for r in rows[:-1] if r["experiment"] == name])
        for name in SKILLS
    }
    assert one["value"] == pytest.approx(mean["srkd"] - mean["static-kd"])
    assert (one["seeds"], one["patients"]) == (3, 50)
    f1 = {
        name: np.mean([
            f1_score(*zip(*[(s["target"], s["prediction"]) for s in details_of(skill, seed)["planes"]["samples"]],
                          strict=True), average="macro")
            for seed in (1, 2, 3)
        ])
        for name, skill in SKILLS.items()
    }  # fmt: skip
    assert found.loc[("no-kd", "srkd", "planes"), "value"] == pytest.approx(f1["srkd"] - f1["no-kd"])
    family = found.loc["no-kd"]
    assert len(family) == 6, "three methods, two scores"
    assert family["holm"].min() == pytest.approx(6 * family["p"].min())
    assert (family["holm"] >= family["p"]).all()


def test_one_seed_rows_without_outcomes_and_other_images_give_no_difference(rows):
    assert differences([r for r in rows if r["seed"] == 1]).empty
    assert differences([{key: value for key, value in r.items() if key != "outcomes"} for r in rows]).empty
    other = {2: outcomes_of(details_of(0.5, 2, images=149)["hc18"])}
    assert contrast_outcomes((1, {2: rows[1]["outcomes"]["hc18"]}), (-1, other)) is None
    assert contrast_outcomes((1, {1: rows[0]["outcomes"]["hc18"]}), (-1, other)) is None


def test_gains_grow_with_the_gap_where_they_do():
    skills = {"fifth": 0.55, "": 0.7, "hundredth": 0.9}
    rows = [row("srkd", seed, skills[student], student) for student in STUDENTS for seed in (1, 2, 3)]
    rows += [row("static-kd", seed, 0.5, student) for student in STUDENTS for seed in (1, 2, 3)]
    found = capacity(rows).set_index(["student", "benchmark"])
    gain = found["value"].xs("hc18", level="benchmark")
    assert gain["hundredth"] > gain[""] > gain["fifth"]
    growth = capacity(rows).query("student == 'growth' and benchmark == 'hc18'").iloc[0]
    assert growth["value"] == pytest.approx(gain["hundredth"] - gain["fifth"])
    assert growth["low"] > 0
    lines = texts(capacity(rows))["compared"].tolist()
    assert "Selective repulsive (SRKD) over Static KD, 1/30 of the teacher" in lines
    assert any(line.endswith("from 1/5 of the teacher to 1/99 of the teacher") for line in lines)


def test_tables_and_plots_of_students_are_written_apart_from_those_of_runs_with_arguments(rows, tmp_path):
    rows += [row(name, seed, skill - 0.1, "hundredth") for name, skill in SKILLS.items() for seed in (1, 2)]
    again = [one | {"arguments": ["--trainer.max_epochs=9"]} for one in rows]
    written = {text.splitlines()[0]: text for text in write_tables(rows + again, tmp_path)}
    assert len(written) == 6
    assert "### DATA=phantom, student 1/99 of the teacher" in written
    assert [*written][-2:] == [
        "### DATA=phantom, gain by size of the student",
        "### DATA=phantom, --trainer.max_epochs=9, gain by size of the student",
    ]
    gain = "| Selective repulsive (SRKD) over Static KD | HC18 validity, % | 3 x 50 | +"
    assert gain in written["### DATA=phantom"]
    assert "smallest detectable" in written["### DATA=phantom"]
    assert Image.open(tmp_path / "phantom-capacity.png").size[0] > 800
    assert {path.name for path in tmp_path.iterdir()} >= {
        "phantom-capacity.png", "phantom-capacity-1.png", "phantom-differences.csv", "phantom-1-differences.tex",
    }  # fmt: skip


def test_documents_show_runs_without_arguments_of_the_latest_group(rows):
    older = [row("srkd", 1, 0.1, protocol={"hc18": "old"}, finished="2025-01-01")]
    other = [row("srkd", 1, 0.1, arguments=["--trainer.max_epochs=1"], finished="2027-01-01")]
    small = [row("srkd", 1, 0.1, "hundredth")]
    assert rows_with([*older, *other, *small, *rows]) == rows
    assert rows_with([*older, *other, *small, *rows], any_student=True) == [*small, *rows]
    assert rows_with([*older, *other, *small, *rows], other[0]["arguments"]) == other


def test_the_seeds_that_the_results_page_asks_for_follow_from_its_formula():
    text = " ".join((ROOT / "docs/results.md").read_text().split())
    said = re.search(
        r"varies by (\d+) points \(deviation\) .{,40} a difference of (\d+) points, about (\d+)0 seeds", text
    )
    deviation, wanted, tens = map(int, said.groups())
    rows = rows_with(read_rows(RESULTS / "hc18.jsonl"))
    validity = {(one["experiment"], one["seed"]): one["metrics"]["student/hc18/validity"] for one in rows}
    gaps = [value - validity["static-kd", seed] for (name, seed), value in validity.items() if name == "srkd"]
    spread = np.std(gaps, ddof=1)
    assert deviation == round(spread)

    def detectable(seeds):
        return (stats.t.isf(0.025, seeds - 1) + stats.t.isf(0.2, seeds - 1)) * spread / seeds**0.5

    enough = next(seeds for seeds in range(2, 1000) if detectable(seeds) <= wanted)
    assert tens == round(enough / 10)


def test_what_a_further_run_may_reach_follows_from_the_rows_and_further_runs():
    text = " ".join((ROOT / "README.md").read_text().split())
    said = re.search(
        r"validity of (\d+) to (\d+) % and a sub-plane F1 of ([\d.]+) to ([\d.]+) \(95 % prediction intervals; "
        r"nine runs range from (\d+) to (\d+) % and from ([\d.]+) to ([\d.]+)\)",
        text,
    ).groups()
    rows = [one for one in rows_with(read_rows(RESULTS / "phantom.jsonl")) if one["experiment"] == "srkd"]
    page = (ROOT / "docs/results.md").read_text().split("| further run |")[1].split("\n\n")[0]
    further = re.findall(r"\| ([\d.]+) \| ([\d.]+) \| [\d.]+ \|$", page, re.MULTILINE)
    assert len(rows) + len(further) == 9
    expected = []
    for column, (key, digits) in enumerate((("hc18/validity", 0), ("subplanes/f1", 2))):
        values = np.array(
            [*(one["metrics"][f"student/{key}"] for one in rows), *(float(run[column]) for run in further)]
        )
        half = stats.t.isf(0.025, len(values) - 1) * values.std(ddof=1) * (1 + 1 / len(values)) ** 0.5
        limits = values.mean() - half, values.mean() + half, values.min(), values.max()
        expected.append([round(float(limit), digits) for limit in limits])
    (low, high, least, most), (low_f1, high_f1, least_f1, most_f1) = expected
    assert [float(x) for x in said] == [low, high, low_f1, high_f1, least, most, least_f1, most_f1]


def test_the_figures_of_the_prediction_page_are_those_of_the_committed_students():
    rows = [one for one in rows_with(read_rows(RESULTS / "phantom.jsonl")) if one["experiment"] == "srkd"]
    text = " ".join((ROOT / "docs/predict.md").read_text().split()).replace(" %", "")

    def figure(key, scale, digits):
        values = [scale * one["metrics"][f"student/{key}"] for one in rows]
        mean, low, high = (f"{value:.{digits}f}" for value in (np.mean(values), min(values), max(values)))
        return f"{mean} ({low} to {high})"

    assert f"AUROC {figure('none/planes_auroc', 1, 2)} of" in text
    assert f"{figure('none/planes_kept', 100, 0)} of known images kept" in text
    assert f"{figure('none/planes_false_accept', 100, 0)} of " in text
    assert f"cover {figure('age_interval/coverage', 100, 0)} of the heads" in text
    low, high = figure("age_interval/width_days", 1, 0).split(" ", 1)
    assert f"are {low} days {high} wide" in text


def documents(folder):
    (folder / "docs").mkdir()
    for name in DOCUMENTS:
        (folder / name).write_text((ROOT / name).read_text())
    return folder


def test_documents_get_the_tables_of_their_data(rows, tmp_path):
    root = documents(tmp_path)
    tables = tmp_path / "tables"
    write_tables(rows, tables)
    written = fill_documents(rows, "phantom", tables, root)
    assert {path.name for path in written} == {"README.md", "results.md", "results-phantom.png"}
    validity = np.mean([r["metrics"]["student/hc18/validity"] for r in rows if r["experiment"] == "srkd"])
    for name in DOCUMENTS:
        assert f"| Selective repulsive (SRKD) | 3 | {validity:.1f} ± " in (root / name).read_text()
    assert "| Static KD over No KD | five-plane F1 | 3 x 50 | +" in (root / "docs/results.md").read_text()
    shutil.rmtree(tables)
    assert fill_documents(rows, "phantom", tables, root) == [], "nothing is left to change"
    assert fill_documents(rows, "planes", tables, root) == [], "and tables of other data stay"


def test_controls_have_tables_of_their_own(rows):
    controls = [row("spare-near", seed, 0.2) for seed in (1, 2, 3)]

    def table(kind):
        marked = f"<!-- table: phantom {kind} -->\n<!-- end of table -->\n"
        return fill(marked, [*rows, *controls], "phantom")

    spared, coupled = "SRKD, near captions spared", "Coupled repulsive, r = -0.8"
    for kind in ("scores", "differences"):
        assert spared not in table(kind)
        assert coupled in table(kind)
    for kind in ("controls", "controls-differences"):
        assert spared in table(kind)
        assert coupled not in table(kind)
    assert f"| {spared} over Selective repulsive (SRKD) | HC18 validity, % | 3 x" in table(
        "controls-differences"
    )


def test_a_table_may_be_of_runs_with_arguments(rows):
    arguments = "--trainer.max_epochs=1 --checkpoint.monitor=null"
    longer = [row("srkd", seed, 0.0, arguments=arguments.split()) for seed in (1, 2)]

    def table(given):
        return fill(
            f"<!-- table: phantom scores{given} -->\n<!-- end of table -->\n", [*rows, *longer], "phantom"
        )

    assert f"| {TITLES['srkd']} | 2 |" in table(f" {arguments}")
    assert TITLES["static-kd"] not in table(f" {arguments}")
    assert f"| {TITLES['srkd']} | 3 |" in table("")
    assert 'SEEDS=1,2,3 ARGS="--trainer.max_epochs=9"` makes them' in table(" --trainer.max_epochs=9")


def test_the_documents_agree_with_the_committed_rows():
    marked = []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        presets = {match[2] for match in MARKED.finditer(text)}
        marked += presets
        for preset in presets:
            rows = read_rows(RESULTS / f"{preset}.jsonl")
            assert fill(text, rows, preset) == text, f"{name}: make table DATA={preset} ARGS=--commit"
    assert marked.count("phantom") == 2


def test_comparisons_name_experiments_of_the_suites():
    known = {name for suite in SUITES.values() for name in suite}
    for reference, methods in COMPARISONS.items():
        assert {reference, *methods} <= known
        assert reference not in methods
