"""The three answers of the report, and the run and settings that a run is compared with."""

import re
import shlex
from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from callbacks import OffDiagonalSchedule
from experiments.report import verdict
from experiments.report.read_run import FinishedRun, read_run
from experiments.report.reference import reference_of, static_command, subject_of
from experiments.report.training import dynamics
from experiments.report.verdict import answers
from metrics.bootstrap import Comparison

SCORE = "val/composite"
AHEAD, BEHIND = "Ahead with this seed; other seeds unknown", "Behind with this seed; other seeds unknown"


@pytest.fixture(scope="module")
def pair(write_run, tmp_path_factory):
    """Return a repulsive run and a static one, of students of these skills; tests must not change them."""

    @cache
    def make(skill=5.0, rival=0.6):
        root, static = tmp_path_factory.mktemp("pair"), {"weights": (1, 1), "seed": 5}
        folders = (
            write_run(root, skill=skill, with_evidence=False),
            write_run(root, "static-kd", skill=rival, with_evidence=False, **static),
        )
        return tuple(map(read_run, folders))

    return make


@pytest.fixture
def run(pair):
    """A repulsive run."""
    return pair()[0]


def scored(run):
    """Entries of the history that hold a validation score: five while attracting, three while repelling."""
    return run.history[SCORE].dropna().index


def with_scores(run, entries, values):
    history = run.history.copy()
    history.loc[entries, SCORE] = values
    return replace(run, history=history)


def with_leads(run, rival, before, after):
    """The run with these leads over another on validation patients, before and after its crossing."""
    theirs = rival.history[SCORE].dropna().to_numpy()
    return with_scores(run, scored(run), theirs + np.array([before] * 5 + [after] * 3))


def differing(run, seed=0, **settings):
    """The run with another seed, or other settings; ``a__b`` stands for b in a."""
    config = deepcopy(run.config)
    for name, value in settings.items():
        *above, last = name.split("__")
        part = config
        for key in above:
            part = part[key]
        part[last] = value
    return replace(run, record=run.record | {"seed": seed}, config=config)


def test_one_run_does_not_claim_that_repulsion_helped(make_run):
    whether, where, when = answers([read_run(make_run(skill=5.0))])
    text = " ".join(whether.sentences)
    assert (whether.short, whether.tone) == ("One run cannot tell", "")
    assert text.endswith("and compare:")
    command = r"make train EXP=static-kd DATA=phantom ARGS=\S+ && make report RUN=\S+/made-up-s0"
    assert re.fullmatch(command, whether.command)
    assert "Longer training alone could explain" in text
    assert "over its teacher" in where.sentences[0]
    assert when.short == "Best while repelling"


@pytest.mark.parametrize(
    ("skill", "rival", "short"),
    [(5.0, 0.6, AHEAD), (0.6, 5.0, BEHIND)],
)
def test_a_clear_difference_of_one_seed_is_reported_without_a_verdict(pair, skill, rival, short):
    whether = answers(pair(skill, rival))[0]
    assert (whether.short, whether.tone) == (short, "")


@pytest.mark.parametrize(("skill", "rival", "short"), [(5.0, 0.6, AHEAD), (0.6, 5.0, BEHIND)])
def test_a_run_that_repels_from_the_start_needs_no_date(make_run, skill, rival, short):
    run = read_run(make_run("repel-only", skill=skill, weights=(1, 1)))
    run = replace(run, history=run.history.assign(**{"train/off_diagonal_weight": -0.8}))
    reference = read_run(make_run("static-kd", skill=rival, weights=(1, 1), seed=5))
    assert answers([run, reference])[0].short == short


def test_of_several_runs_that_repel_the_one_that_is_judged_is_named(make_run):
    first, second = (read_run(make_run(run=name)) for name in ("first", "second"))
    assert verdict.answers([first, second])[0].sentences[0] == f"These answers are about {first.name}."
    assert "These answers" not in str(verdict.answers([first]))


def test_equal_runs_show_nothing(make_run):
    runs = [read_run(make_run(skill=3.0)), read_run(make_run("static-kd", skill=3.0, weights=(1, 1)))]
    whether, where, when = answers(runs)
    assert whether.short == "Not shown: within chance"
    assert where.short == "Nowhere notable"
    assert "not ahead of static-kd" in " ".join(when.sentences)


def test_a_reference_without_a_teacher_confounds_repulsion_with_distillation(make_run):
    runs = [read_run(make_run(skill=5.0)), read_run(make_run("no-kd", skill=0.6, weights=(1, 1), seed=5))]
    whether = answers(runs)[0]
    text = " ".join(whether.sentences)
    assert (whether.short, whether.tone) == ("Confounded with distillation", "")
    assert "five-plane F1 +" in text
    assert "effect of distillation and repulsion together" in text
    assert whether.command.startswith("make train EXP=static-kd DATA=phantom")


MIXED = "Confounded with other settings"


@pytest.mark.parametrize(
    ("settings", "named", "short"),
    [
        ({"trainer__max_epochs": 4}, "max epochs (8, not 4)", MIXED),
        ({"model__teacher": {"class_path": "models.OpenCLIPEncoder"}}, "teacher", MIXED),
        ({"model__student": {"class_path": "models.OpenCLIPEncoder"}}, "student", MIXED),
        ({"model__learning_rate": 0.01}, "learning rate (0.002, not 0.01)", MIXED),
        ({"model__loss__init_args__temperature": 1.0}, "temperature (5, not 1)", MIXED),
        ({"data__init_args__corpus": {"seed": 2}}, "corpus.seed (1, not 2)", MIXED),
        ({"trainer__limit_train_batches": 0.1}, "limit train batches (1, not 0.1)", MIXED),
        ({"trainer__precision": "16-mixed"}, "precision (32-true, not 16-mixed)", MIXED),
        ({"data__init_args__images": "denoised"}, "images (raw, not denoised)", MIXED),
        ({"seed": 7}, "seed (0, not 7)", AHEAD),
        ({"data__init_args__seed": 7}, "data seed (0, not 7)", AHEAD),
    ],
)
def test_settings_in_which_the_reference_differs_are_named(pair, settings, named, short):
    usual = {
        "model__learning_rate": 0.002, "data__init_args__corpus": {"seed": 1}, "trainer__precision": "32-true",
        "data__init_args__seed": 0, "data__init_args__images": "raw", "trainer__limit_train_batches": 1.0,
    }  # fmt: skip
    run, rival = pair()
    whether = answers([differing(run, **usual), differing(rival, **(usual | settings))])[0]
    assert whether.short == short
    assert f"The two also differ in {named}." in whether.sentences


def test_a_reference_with_another_checkpoint_or_average_is_confounded(pair):
    run, rival = pair()
    last = replace(rival, record=rival.record | {"selection": {"monitor": None}})
    average = {"class_path": "callbacks.EMAWeightAveraging", "init_args": {"decay": 0.99}}
    averaged = differing(rival, trainer__callbacks=[{"class_path": "callbacks.TeacherCache"}, average])
    for other, named in (
        (last, "checkpoint (val/composite, not the last)"),
        (averaged, "weight averaging (none, not 0.99)"),
    ):
        whether = answers([run, other])[0]
        assert whether.short == MIXED
        assert f"The two also differ in {named}." in whether.sentences


def test_how_images_are_read_is_no_difference(pair):
    run, rival = pair()
    read = {"data__init_args__num_workers": 9, "data__init_args__cache": "/x", "model__compile": True}
    read["data__init_args__root"] = "/elsewhere/HC18"
    whether = answers([run, differing(rival, **read)])[0]
    assert whether.short == AHEAD
    assert "also differ" not in " ".join(whether.sentences)


def test_another_content_of_a_corpus_is_a_difference(pair):
    def with_digest(run, digest):
        return replace(run, record=run.record | {"run": {"data": {"corpora": {"HC18_ROOT": digest}}}})

    run, rival = pair()
    whether = answers([with_digest(run, "ab"), with_digest(rival, "cd")])[0]
    assert "The two also differ in HC18 ROOT (ab, not cd)." in whether.sentences


def test_losses_and_starting_weights_that_differ_are_stated(pair):
    run, rival = pair()
    rival = differing(rival, model__loss__init_args__distillation_weight=1.0)
    stated = "The losses differ before any repulsion: SRKDLoss from 2 against CoupledKDLoss at 1."
    assert stated in answers([run, rival])[0].sentences
    same = differing(rival, model__loss=run.config["model"]["loss"], schedule=run.config["schedule"])
    assert "losses differ" not in " ".join(answers([run, same])[0].sentences)


@pytest.mark.parametrize(
    ("skills", "before", "after", "short"),
    [
        ((5.0, 0.6), 0.3, 0.2, "Ahead, but not because of repulsion"),
        ((5.0, 0.6), 0.3, 0.305, "Ahead, but not because of repulsion"),
        ((5.0, 0.6), 0.3, 0.32, AHEAD),
        ((5.0, 0.6), -0.1, 0.0, AHEAD),
        ((0.6, 5.0), -0.3, -0.2, "Behind, but not because of repulsion"),
        ((0.6, 5.0), -0.2, -0.3, BEHIND),
    ],
)
def test_a_difference_from_before_the_crossing_is_not_attributed_to_repulsion(
    pair, skills, before, after, short
):
    run, rival = pair(*skills)
    # Scores that rise steeply, so that the last is the best whatever the leads are.
    rival = with_scores(rival, scored(rival), rival.history["step"] / 200)
    whether = answers([with_leads(run, rival, before, after), rival])[0]
    assert (whether.short, whether.tone) == (short, "")


def test_a_checkpoint_from_before_the_crossing_was_never_repelled(pair):
    run, rival = pair()
    whether, _, when = answers([with_scores(run, scored(run)[2], 9.0), rival])
    assert (whether.short, whether.tone) == ("Ahead, but not because of repulsion", "")
    assert when.short == "Best before repulsion began"
    assert "never repelled" in " ".join(when.sentences)


def test_the_last_checkpoint_was_repelled_whatever_score_was_best(pair):
    run, rival = pair()
    record = run.record | {"selection": {"monitor": None, "score": None, "checkpoint": "best.ckpt"}}
    early = replace(with_scores(run, scored(run)[2], 9.0), record=record)
    assert (dynamics(early).best.phase, dynamics(early).checkpoint.phase) == ("attract", "repel")
    rival = replace(rival, record=rival.record | {"selection": record["selection"]})
    whether, _, when = answers([early, rival])
    assert "was never repelled" not in " ".join([*whether.sentences, *when.sentences])
    assert when.short == "Best before repulsion began"
    assert "the last weights were scored on test patients" in " ".join(when.sentences)


def test_a_checkpoint_that_another_metric_selected_is_not_the_one_with_the_best_composite(pair):
    run, rival = pair()
    run, rival = (
        replace(one, record=one.record | {"selection": {"monitor": "val/loss/total"}}) for one in (run, rival)
    )
    run = with_scores(run, scored(run)[2], 9.0)
    assert dynamics(run).checkpoint is None
    whether, _, when = answers([run, rival])
    assert "never repelled" not in " ".join([*whether.sentences, *when.sentences])
    assert "; the weights selected by val/loss/total were scored on" in " ".join(when.sentences)


def test_the_command_for_a_reference_repeats_the_runs_options_without_its_loss_and_schedule(run):
    command = [
        "fit", "--config=experiments/recipes/data/phantom.yaml", "--config=experiments/recipes/srkd.yaml",
        "--config=my own.yaml", "--run", "x", "--experiment=srkd", "--schedule.end_ratio=-1",
        "--model.learning_rate=0.01", "--model.loss.init_args.temperature=2",
        "--model.loss.init_args.off_diagonal_weight=2", "--seed_everything", "3",
    ]  # fmt: skip

    def static(command):
        return static_command(replace(run, record=run.record | {"command": command}))

    *variables, given = shlex.split(static(command))
    assert variables == ["make", "train", "EXP=static-kd", "DATA=phantom"]
    assert given == (
        "ARGS='--config=my own.yaml' --model.learning_rate=0.01 --model.loss.init_args.temperature=2 "
        "--seed_everything=3"
    )
    assert static(["train", "srkd", "phantom"]).endswith("ARGS=--seed_everything=0")
    # The shell runs nothing of it, and make passes a dollar sign on.
    assert shlex.split(static(["fit", "--data.root=$(touch x)"]))[-1] == (
        "ARGS='--data.root=$$(touch x)' --seed_everything=0"
    )
    assert "config.yaml" not in static(["fit", "--config", "outputs/srkd/a/config.yaml"])


def test_the_reference_distils_is_static_and_has_the_same_settings(make_run):
    run, plain = read_run(make_run()), read_run(make_run("no-kd", weights=(1, 1)))
    rivals = [read_run(make_run("static-kd", run=name, weights=(1, 1))) for name in ("a", "b")]
    runs = [plain, differing(rivals[0], trainer__max_epochs=4), run, rivals[1]]
    assert subject_of(runs) is run
    assert reference_of(runs) is rivals[1]


@pytest.mark.parametrize("weight", ["off_diagonal_weight", "distillation_weight"])
def test_a_weight_that_is_negative_throughout_repels(make_run, weight):
    run = read_run(make_run(weights=(1, 1)))
    history = run.history.assign(**{f"train/{weight}": -0.8})
    whether, _, when = answers([replace(run, history=history)])
    assert whether.short == "One run cannot tell"
    assert "the weight was negative from the start" in when.sentences[0]


def fall(run):
    """How the report describes the fall of the weight."""
    (text,) = [text for text in answers([run])[2].sentences if text.startswith("The weight fell ")]
    return (
        text.removeprefix("The weight fell ").partition(" and crossed zero")[0].replace("\N{MINUS SIGN}", "-")
    )


def scheduled(run, shape, total=200, every=10, taken=None):
    """The run with weights of a schedule over `total` steps, of which it took `taken`, logged as Lightning does."""
    taken = total if taken is None else taken
    steps = np.arange(every - 1, taken, every)
    config = deepcopy(run.config)
    config["schedule"]["init_args"]["shape"] = shape
    schedule = OffDiagonalSchedule(2.0, -0.4, shape)
    weights = [np.float32(schedule.weight(int(step) / total)) for step in steps]
    history = run.history.drop(columns="train/off_diagonal_weight")
    history = history[history["step"] < taken]
    logged = pd.DataFrame({"step": steps, "epoch": steps // 25, "train/off_diagonal_weight": weights})
    record = run.record | {"steps": taken, "scheduled_steps": total}
    return FinishedRun(run.folder, record, pd.concat([history, logged]), config)


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential", "hold-linear", "step"])
def test_the_weight_of_a_whole_run_ends_where_its_schedule_does(run, shape):
    """The last step's weight is short of the end, and the last logged one is of a step before."""
    assert fall(scheduled(run, shape)) == "from 2 to -0.8"


@pytest.mark.parametrize(
    ("shape", "taken", "last"), [("linear", 170, "-0.38"), ("hold-linear", 194, "-0.63")]
)
def test_a_run_that_was_cut_short_did_not_reach_the_end_of_its_schedule(run, shape, taken, last):
    assert fall(scheduled(run, shape, taken=taken)) == f"from 2 to {last}"


def test_a_run_too_short_to_log_its_weight_is_judged_by_its_schedule(run):
    short = scheduled(run, "linear", total=8, every=10)
    assert short.history["train/off_diagonal_weight"].notna().sum() == 0
    assert answers([short])[0].short == "One run cannot tell"
    assert dynamics(short).crossing == pytest.approx(8 * 2 / 2.8)
    stopped = scheduled(run, "linear", total=200, taken=100, every=1000)
    assert answers([stopped])[0].short == "No repulsion here", "it ended before the weight reached zero"


def test_without_a_known_schedule_the_logged_weights_are_used(run):
    run = scheduled(run, "linear")
    for schedule in (None, {"class_path": "lab.MySchedule", "init_args": {"speed": 3}}):
        other = replace(run, config=run.config | {"schedule": schedule})
        assert fall(other) == "from 1.9 to -0.79"


@pytest.mark.parametrize(
    ("gain", "word"),
    [(0.1, "wider"), (-0.1, "narrower"), (0.0, "the same: repulsion changed little")],
)
def test_the_leads_before_and_after_the_crossing_are_compared(pair, gain, word):
    run, rival = pair()
    when = answers([with_leads(run, rival, 0.05, 0.05 + gain), rival])[2]
    after = f"{0.05 + gain:+.3f}".replace("-", "\N{MINUS SIGN}")
    assert (
        f"Its lead over static-kd was +0.050 at the last evaluation before the crossing, {after} at the last: "
        f"{word}." in when.sentences
    )


@pytest.mark.parametrize(
    ("skills", "short"), [((5.0, 0.6), "Ahead; cannot be dated"), ((0.6, 5.0), "Behind; cannot be dated")]
)
def test_a_difference_without_evaluations_on_both_sides_is_no_answer(pair, skills, short):
    run, rival = pair(*skills)
    history = run.history[run.history[SCORE].isna() | (run.history["epoch"] >= 5)]
    whether, _, when = answers([replace(run, history=history), rival])
    assert (whether.short, whether.tone) == (short, "")
    assert any("cannot be dated" in sentence for sentence in when.sentences)


def test_the_class_that_rose_most_is_named_with_its_scores_before_and_after(pair):
    run, rival = pair()
    gains = {}
    for benchmark in ("planes", "subplanes"):
        mine, theirs = (one.details("student", benchmark).get("per_class", {}) for one in (run, rival))
        gains |= {name: (mine[name]["f1"] - theirs[name]["f1"], name) for name in mine if name in theirs}
    _, most = max(gains.values())
    where = answers([run, rival])[1]
    assert where.short == f"Most for {most}"
    named = re.findall(r"([\w ,]+?) (\d\.\d\d) to (\d\.\d\d)", where.sentences[1])
    assert named
    for name, before, after in named:
        assert float(after) > float(before), name


def test_differences_that_are_clear_only_uncorrected_are_within_chance(pair, monkeypatch):
    found = Comparison(0.1, 0.01, 0.19, 0.03, 0.15, 1, 40)
    monkeypatch.setattr(verdict, "difference", lambda *_: found)  # three scores: Holm makes 0.09 of 0.03
    assert answers(list(pair()))[0].short == "Not shown: within chance"
