"""The three answers and the differences of a report of several seeds."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from experiments.report.read_run import read_run
from experiments.report.reference import reference_of, seed_pairs, subject_of
from experiments.report.tables import difference, differences
from experiments.report.verdict import answers
from metrics.benchmarks import BENCHMARKS


@pytest.fixture
def study(make_run):
    """Return the runs of SRKD and static KD with these skills, one of each a seed; their images are the same."""

    def make(skills, rivals):
        runs = []
        for experiment, weights, own in (("srkd", (2.0, -0.8), skills), ("static-kd", (1.0, 1.0), rivals)):
            for seed, skill in enumerate(own, start=1):
                number = seed + (10 if experiment == "srkd" else 50)
                folder = make_run(experiment, f"s{seed}", skill, weights, seed=number, with_evidence=False)
                run = read_run(folder)
                runs.append(replace(run, record=run.record | {"seed": seed}))
        return runs

    return make


def test_a_clear_difference_over_seeds_is_reported(study):
    runs = study([5.0, 4.8, 5.2], [0.6, 0.5, 0.7])
    whether, where, when = answers(runs)
    assert (whether.short, whether.tone) == ("Yes, over 3 seeds", "good")
    text = " ".join(whether.sentences)
    assert "over 3 seeds and the test patients together" in text
    assert "repeat with other seeds" not in text
    assert re.search(r"finds with 80 % power: five-plane F1 0\.\d{3}, .*HC18 validity, % \d+\.\d\.", text)
    means = [
        np.mean([run.metric("student", "planes", "f1") for run in part]) for part in (runs[:3], runs[3:])
    ]
    assert f"five-plane F1 +{means[0] - means[1]:.3f} (" in whether.sentences[0]
    assert "means of 3 seeds, over static-kd" in where.sentences[0]
    assert when.short == "Best while repelling in 3 of 3 seeds"
    assert "static-kd, mean of the seeds" in when.sentences[-1]


def test_a_difference_of_one_seed_is_not_one_of_all(study):
    """One seed is far ahead and another far behind: patients alone would show either."""
    runs = study([5.0, 2.0, 0.6], [0.6, 2.0, 5.0])
    assert answers([runs[0], runs[3]])[0].short == "Ahead with this seed; other seeds unknown"
    assert answers([runs[2], runs[5]])[0].short == "Behind with this seed; other seeds unknown"
    assert answers(runs)[0].short == "Not shown: within chance"


def test_a_method_is_not_compared_with_its_own_other_seeds(study):
    runs = study([3.0, 3.0], [2.0, 2.0])
    mine, theirs = runs[2:], runs[:2]  # static KD as the subject: it never repels, as a loss of one's own
    assert reference_of(mine) is None
    others = [replace(run, record=run.record | {"experiment": "no-kd"}) for run in mine]
    assert reference_of([*mine, *others]) in others
    assert subject_of([*mine, *others]) is mine[0]
    assert reference_of([*theirs, *mine]) in mine


def test_only_runs_that_differ_in_the_seed_alone_are_paired(study):
    runs = study([3.0, 3.0], [2.0, 2.0])
    subject, reference = subject_of(runs), reference_of(runs)
    assert [(a.name, b.name) for a, b in seed_pairs(runs, subject, reference)] == [
        ("srkd/s1", "static-kd/s1"), ("srkd/s2", "static-kd/s2"),
    ]  # fmt: skip
    changed = json.loads(json.dumps(runs[1].config))
    changed["trainer"]["max_epochs"] = 3
    other = [runs[0], replace(runs[1], config=changed), *runs[2:]]
    assert seed_pairs(other, subject, reference) == [(subject, reference)]


def test_the_table_has_one_line_for_all_seeds(study):
    first, second, third, *rivals = study([4.0, 4.0, 4.0], [1.0, 1.0])
    runs = [first, second, *rivals]
    for given in (runs, [*runs, third]):  # also with a seed that the reference lacks
        table = differences(given, [run.name for run in given], reference_of(runs))
        lines = [row["difference"] for row in table.rows if "teacher" not in row["difference"]]
        assert lines == ["srkd over static-kd, 2 seeds"]
    found = difference(seed_pairs(runs, runs[0], runs[2]), "student", BENCHMARKS["hc18"])
    validity = [run.metric("student", "hc18", "validity") for run in runs]
    assert found.value == pytest.approx(np.mean(validity[:2]) - np.mean(validity[2:]))
    assert found.seeds == 2


def test_checkpoints_from_before_the_crossing_in_half_of_the_seeds_are_not_repulsion(study):
    runs = study([5.0, 4.8, 5.2, 4.9], [0.6, 0.5, 0.7, 0.6])
    for number in (0, 2):
        history = runs[number].history.copy()
        history.loc[history["val/composite"].dropna().index[2], "val/composite"] = 9.0
        runs[number] = replace(runs[number], history=history)
    whether = answers(runs)[0]
    assert whether.short == "Ahead, but not because of repulsion"
    assert "in 2 of 4 seeds" in " ".join(whether.sentences)


def test_a_seed_without_evaluations_on_both_sides_leaves_the_lead_undated(study):
    runs = study([5.0, 4.8, 5.2], [0.6, 0.5, 0.7])
    history = runs[0].history.copy()
    history.loc[history["val/composite"].dropna().index[:5], "val/composite"] = np.nan
    assert answers([replace(runs[0], history=history), *runs[1:]])[0].short == "Ahead; cannot be dated"
