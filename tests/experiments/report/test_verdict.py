"""What the report answers about repulsion, and the run and settings that it holds a run against."""

import re
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest

from callbacks import OffDiagonalSchedule
from experiments.report.read_run import Run, read_run
from experiments.report.reference import reference_of, subject_of
from experiments.report.shared_settings import options_like
from experiments.report.training import dynamics
from experiments.report.verdict import answers


def test_one_run_does_not_claim_that_repulsion_helped(make_run):
    whether, where, when = answers([read_run(make_run(skill=5.0))])
    assert whether.short == "One run cannot say"
    assert not whether.tone
    both = r'make train EXP=static-kd DATA=phantom ARGS="[^"]+" && make report RUN=\S+/made-up-s0, which'
    assert re.search(both, " ".join(whether.sentences))
    assert "Longer training alone could explain" in " ".join(whether.sentences)
    assert "over its teacher" in where.sentences[0]
    assert when.short == "Best while repelling"


@pytest.mark.parametrize(
    ("skill", "rival", "short"),
    [(5.0, 0.6, "Yes, on these test patients"), (0.6, 5.0, "No, it cost accuracy here")],
)
def test_a_clear_difference_from_the_reference_is_said(make_run, skill, rival, short):
    runs = [
        read_run(make_run(skill=skill)),
        read_run(make_run("static-kd", skill=rival, weights=(1, 1), seed=5)),
    ]
    assert answers(runs)[0].short == short


def test_equal_runs_show_nothing(make_run):
    runs = [read_run(make_run(skill=3.0)), read_run(make_run("static-kd", skill=3.0, weights=(1, 1)))]
    whether, where, when = answers(runs)
    assert whether.short == "Not shown: within chance"
    assert where.short == "Nowhere notable"
    assert "not ahead of static-kd" in " ".join(when.sentences)


def differing(run, seed=0, **settings):
    """The run with another seed, or other settings; ``a__b`` stands for b in a."""
    record, config = run.record | {"seed": seed}, deepcopy(run.config)
    for name, value in settings.items():
        *above, last = name.split("__")
        part = config
        for key in above:
            part = part[key]
        part[last] = value
    return Run(run.folder, record, run.history, config)


def test_a_run_that_never_distilled_cannot_tell_repulsion_from_distillation(make_run):
    runs = [
        read_run(make_run(skill=5.0)),
        read_run(make_run("no-kd", skill=0.6, weights=(1, 1), seed=5)),
    ]
    whether = answers(runs)[0]
    text = " ".join(whether.sentences)
    assert whether.short == "Not told from distillation"
    assert not whether.tone
    assert "five-plane F1 +" in text
    assert "difference of distillation and repulsion together" in text
    assert "make train EXP=static-kd DATA=phantom" in text


MIXED = "Not told from other settings"


@pytest.mark.parametrize(
    ("settings", "named", "short"),
    [
        ({"trainer__max_epochs": 4}, "epochs (8, not 4)", MIXED),
        ({"model__teacher": {"class_path": "models.OpenCLIPEncoder"}}, "teacher", MIXED),
        ({"model__student": {"class_path": "models.OpenCLIPEncoder"}}, "student", MIXED),
        ({"model__learning_rate": 0.01}, "learning rate (0.002, not 0.01)", MIXED),
        ({"model__weight_decay": 0.5}, "weight decay (0.1, not 0.5)", MIXED),
        ({"model__warmup_steps": 30}, "warm-up (500, not 30)", MIXED),
        ({"model__loss__init_args__temperature": 1.0}, "temperature (5, not 1)", MIXED),
        ({"data__init_args__batch_size": 8}, "batch size (64, not 8)", MIXED),
        ({"data__init_args__corpus": {"seed": 2}}, "corpus.seed (1, not 2)", MIXED),
        ({"trainer__accumulate_grad_batches": 2}, "accumulation (1, not 2)", MIXED),
        ({"trainer__precision": "16-mixed"}, "precision (32-true, not 16-mixed)", MIXED),
        ({"seed": 7}, "seed (0, not 7)", "Yes, on these test patients"),
    ],
)
def test_settings_in_which_the_reference_differs_are_named(make_run, settings, named, short):
    usual = {
        "model__learning_rate": 0.002, "model__weight_decay": 0.1, "model__warmup_steps": 500,
        "data__init_args__corpus": {"seed": 1}, "trainer__accumulate_grad_batches": 1,
        "trainer__precision": "32-true",
    }  # fmt: skip
    run, settings = differing(read_run(make_run(skill=5.0)), **usual), usual | settings
    rival = differing(read_run(make_run("static-kd", skill=0.6, weights=(1, 1), seed=5)), **settings)
    whether = answers([run, rival])[0]
    assert whether.short == short
    assert f"The two also differ in {named}." in whether.sentences


def test_how_images_are_fetched_is_no_difference(make_run):
    run, rival = (
        read_run(make_run(skill=5.0)),
        read_run(make_run("static-kd", skill=0.6, weights=(1, 1), seed=5)),
    )
    fetched = {"data__init_args__num_workers": 9, "data__init_args__cache": "/x", "model__compile": True}
    whether = answers([run, differing(rival, **fetched)])[0]
    assert whether.short == "Yes, on these test patients"
    assert "also differ" not in " ".join(whether.sentences)


def test_losses_and_starting_weights_that_differ_are_said(make_run):
    run, rival = read_run(make_run()), read_run(make_run("static-kd", weights=(1, 1)))
    rival = differing(rival, model__loss__init_args__distillation_weight=1.0)
    said = "The losses differ before any repulsion: SRKDLoss from 2 against CoupledKDLoss at 1."
    assert said in answers([run, rival])[0].sentences
    same = differing(rival, model__loss=run.config["model"]["loss"], schedule=run.config["schedule"])
    assert "losses differ" not in " ".join(answers([run, same])[0].sentences)


def with_leads(run, rival, before, after):
    """The run with these leads over another on validation patients, before and after its crossing."""
    history = run.history.copy()
    scored = history["val/composite"].dropna().index
    theirs = rival.history["val/composite"].dropna().to_numpy()
    history.loc[scored, "val/composite"] = theirs + np.array([before] * 5 + [after] * 3)
    return Run(run.folder, run.record, history, run.config)


@pytest.mark.parametrize(
    ("skills", "before", "after", "short"),
    [
        ((5.0, 0.6), 0.3, 0.2, "Ahead, but not through repulsion"),
        ((5.0, 0.6), 0.3, 0.305, "Ahead, but not through repulsion"),
        ((5.0, 0.6), 0.3, 0.32, "Yes, on these test patients"),
        ((5.0, 0.6), -0.1, 0.0, "Yes, on these test patients"),
        ((0.6, 5.0), -0.3, -0.2, "Behind, but not through repulsion"),
        ((0.6, 5.0), -0.2, -0.3, "No, it cost accuracy here"),
    ],
)
def test_a_difference_from_before_the_crossing_is_not_put_down_to_repulsion(
    make_run, skills, before, after, short
):
    rival = read_run(make_run("static-kd", skill=skills[1], weights=(1, 1), seed=5))
    # Scores that rise steeply, so that the last is the best whatever the leads are.
    steep = rival.history.assign(
        **{"val/composite": rival.history["step"] / 200 + 0 * rival.history["val/composite"]}
    )
    rival = Run(rival.folder, rival.record, steep, rival.config)
    whether = answers([with_leads(read_run(make_run(skill=skills[0])), rival, before, after), rival])[0]
    assert whether.short == short
    assert whether.tone == {"Y": "good", "N": "bad"}.get(short[0], "")


def test_a_lead_of_a_checkpoint_that_was_never_repelled_is_not_put_down_to_repulsion(make_run):
    run, rival = (
        read_run(make_run(skill=5.0)),
        read_run(make_run("static-kd", skill=0.6, weights=(1, 1), seed=5)),
    )
    history = run.history.copy()
    history.loc[history["val/composite"].dropna().index[2], "val/composite"] = 9.0
    whether = answers([Run(run.folder, run.record, history, run.config), rival])[0]
    assert whether.short == "Ahead, but not through repulsion"
    assert not whether.tone


def test_the_command_for_a_reference_carries_the_settings_that_its_recipe_lacks(make_run):
    recipe = {  # experiments/base.yaml and experiments/data/phantom.yaml
        "model__learning_rate": 0.002, "model__warmup_steps": 30, "model__weight_decay": 0.1,
        "trainer__accumulate_grad_batches": 1, "trainer__max_steps": -1, "trainer__gradient_clip_val": 1.0,
        "model__teacher__init_args__path": "teacher:phantom",
        "data__init_args": {"batch_size": 48, "zoom": 0.5, "val_share": 0.1, "num_workers": 7},
    }  # fmt: skip
    run = differing(read_run(make_run()), **recipe)
    assert options_like(run, "static-kd") == ["--seed_everything=0", "--trainer.max_epochs=8"]
    own = {
        "model__learning_rate": 0.01,
        "data__init_args__val_share": 0.2,
        "model__loss__init_args": {"temperature": 2.0, "off_diagonal_weight": 2.0},
        "model__student": {
            "class_path": "models.TimmEncoder",
            # A run's file lists what the class has as a tuple.
            "init_args": {"embed_dim": 192, "text_width": 64, "mean": [0.485, 0.456, 0.406]},
        },
    }
    assert set(options_like(differing(run, **own), "static-kd")[2:]) == {
        "--model.learning_rate=0.01",
        "--data.init_args.val_share=0.2",
        "--model.loss.init_args.temperature=2.0",
        "--model.student.init_args.text_width=64",
    }
    elsewhere = Run(run.folder, run.record | {"data": "my-own"}, run.history, run.config)
    assert options_like(elsewhere, "static-kd") == ["--seed_everything=0", "--trainer.max_epochs=8"]


def test_the_reference_with_the_same_settings_is_preferred(make_run):
    run = read_run(make_run())
    rivals = [read_run(make_run("static-kd", run=name, weights=(1, 1))) for name in ("a", "b")]
    runs = [differing(rivals[0], trainer__max_epochs=4), run, rivals[1]]
    assert reference_of(runs) is runs[2]


def test_a_drop_after_the_crossing_is_worded_as_a_drop(make_run):
    run = read_run(make_run())
    history = run.history.copy()
    scored = history["val/composite"].dropna().index
    history.loc[scored[5:], "val/composite"] = 0.1
    text = " ".join(answers([Run(run.folder, run.record, history, run.config)])[0].sentences)
    assert "could explain the rise" not in text
    assert "Repulsion may have kept it from rising" in text


def test_a_weight_that_is_negative_throughout_repels(make_run):
    run = read_run(make_run(weights=(1, 1)))
    history = run.history.assign(**{"train/off_diagonal_weight": -0.8})
    whether, _, when = answers([Run(run.folder, run.record, history, run.config)])
    assert whether.short == "One run cannot say"
    assert "the weight was negative from the start" in when.sentences[0]


def fall(run):
    """What the report says of the way of the weight."""
    (said,) = [text for text in answers([run])[2].sentences if text.startswith("The weight fell ")]
    return (
        said.removeprefix("The weight fell ").partition(" and crossed zero")[0].replace("\N{MINUS SIGN}", "-")
    )


def scheduled(run, shape, total=200, every=10, taken=None):
    """The run with weights of a schedule over `total` steps, of which it took `taken`, logged as Lightning does."""
    taken = total if taken is None else taken
    steps = np.arange(every - 1, taken, every)
    config = deepcopy(run.config)
    config["schedule"]["init_args"]["shape"] = shape
    schedule = OffDiagonalSchedule(2.0, -0.4, shape)
    weights = [np.float32(schedule.weight(int(step), total)) for step in steps]
    history = run.history.drop(columns="train/off_diagonal_weight")
    history = history[history["step"] < taken]
    logged = pd.DataFrame({"step": steps, "epoch": steps // 25, "train/off_diagonal_weight": weights})
    record = run.record | {"steps": taken, "scheduled_steps": total}
    return Run(run.folder, record, pd.concat([history, logged]), config)


@pytest.mark.parametrize("shape", ["linear", "cosine", "exponential", "hold-linear", "step"])
def test_the_weight_of_a_whole_run_ends_where_its_schedule_does(make_run, shape):
    """The last step's weight is short of the end, and the last logged one is of a step before."""
    run = scheduled(read_run(make_run()), shape)
    assert fall(run) == "from 2 to -0.8"
    found = dynamics(run)
    assert found.planned == pytest.approx((2, -0.8))
    if shape in ("linear", "hold-linear"):
        assert f"{found.end_weight:.2g}" != "-0.8", "else this proves nothing"


@pytest.mark.parametrize(
    ("shape", "last"), [("linear", "-0.37"), ("cosine", "-0.64"), ("hold-linear", "-0.6")]
)
def test_a_run_that_was_cut_short_did_not_reach_the_end_of_its_schedule(make_run, shape, last):
    taken = 194 if shape == "hold-linear" else 170
    run = scheduled(read_run(make_run()), shape, taken=taken)
    assert fall(run) == f"from 2 to {last} (its schedule goes on to -0.8)"


def test_a_run_too_short_to_log_its_weight_is_judged_by_its_schedule(make_run):
    made = read_run(make_run())
    run = scheduled(made, "linear", total=8, every=10)
    assert run.history["train/off_diagonal_weight"].notna().sum() == 0
    assert answers([run])[0].short == "One run cannot say"
    assert dynamics(run).crossing == pytest.approx(8 * 2 / 2.8)
    unsettled = scheduled(made, "linear", total=200, taken=100, every=1000)
    assert answers([unsettled])[0].short == "No repulsion here", "it ended before the weight reached zero"


def test_without_a_known_schedule_the_logged_weights_are_called_so(make_run):
    run = scheduled(read_run(make_run()), "linear")
    for schedule in (None, {"class_path": "lab.MySchedule", "init_args": {"speed": 3}}):
        other = Run(run.folder, run.record, run.history, run.config | {"schedule": schedule})
        assert fall(other) == "from 1.9 to -0.79 (first and last logged)"
    assert "(first and last logged)" in fall(Run(run.folder, run.record, run.history, {}))


def test_one_evaluation_is_one(make_run):
    run = read_run(make_run())
    scored = run.history["val/composite"].dropna().index
    history = run.history.drop(index=scored[1:5])
    text = " ".join(answers([Run(run.folder, run.record, history, run.config)])[2].sentences)
    assert "while attracting (1 evaluation);" in text
    assert "while repelling (3 evaluations)" in text


def test_static_distillation_is_the_preferred_reference(make_run):
    runs = [
        read_run(make_run("no-kd", weights=(1, 1))),
        read_run(make_run("srkd")),
        read_run(make_run("static-kd", weights=(1, 1))),
    ]
    assert subject_of(runs) is runs[1]
    assert reference_of(runs) is runs[2]


def test_a_checkpoint_from_before_the_crossing_is_called_out(make_run):
    run = read_run(make_run())
    history = run.history.copy()
    scores = history["val/composite"].dropna().index
    history.loc[scores[2], "val/composite"] = 0.99
    when = answers([Run(run.folder, run.record, pd.DataFrame(history), run.config)])[2]
    assert when.short == "Best before repulsion began"
    assert "never repelled" in " ".join(when.sentences)


@pytest.mark.parametrize(
    ("gain", "word"),
    [(0.1, "wider"), (-0.1, "narrower"), (0.0, "the same: repulsion changed little")],
)
def test_the_lead_before_the_crossing_is_told_from_that_after(make_run, gain, word):
    """Both runs rise alike; only what comes after the crossing may be put down to repulsion."""
    run, rival = read_run(make_run()), read_run(make_run("static-kd", weights=(1, 1)))
    history = run.history.copy()
    scored = history["val/composite"].dropna().index
    history.loc[scored, "val/composite"] += 0.05
    history.loc[scored[5:], "val/composite"] += gain
    when = answers([Run(run.folder, run.record, history, run.config), rival])[2]
    after = f"{0.05 + gain:+.3f}".replace("-", "\N{MINUS SIGN}")
    assert (
        f"Its lead over static-kd was +0.050 at the last evaluation before the crossing, {after} at the last: "
        f"{word}." in when.sentences
    )


def test_a_gain_without_evaluations_on_both_sides_cannot_be_dated(make_run):
    run, rival = read_run(make_run()), read_run(make_run("static-kd", weights=(1, 1)))
    early = run.history[run.history["epoch"] < 5]
    late = pd.concat([early[early["val/composite"].isna()], run.history[run.history["epoch"] >= 5]])
    when = answers([Run(run.folder, run.record, late, run.config), rival])[2]
    assert any("cannot be dated" in sentence for sentence in when.sentences)


@pytest.mark.parametrize(
    ("skills", "short"), [((5.0, 0.6), "Ahead; cannot be dated"), ((0.6, 5.0), "Behind; cannot be dated")]
)
def test_a_difference_without_evaluations_on_both_sides_is_no_answer(make_run, skills, short):
    run = read_run(make_run(skill=skills[0]))
    rival = read_run(make_run("static-kd", skill=skills[1], weights=(1, 1), seed=5))
    history = run.history[run.history["val/composite"].isna() | (run.history["epoch"] >= 5)]
    whether = answers([Run(run.folder, run.record, history, run.config), rival])[0]
    assert (whether.short, whether.tone) == (short, "")
