"""Names, typos and the order of YAML files."""

from pathlib import Path

import pytest
import yaml

from experiments.recipes import (
    BASE,
    PRESETS,
    QUANTISED_EXPERIMENT,
    ROOT,
    experiment_file,
    experiment_names,
    preset_file,
    recipe_of,
)

PAPER = {
    "teacher", "no-kd", "static-kd", "feature-kd", "repulsive-r-0.5", "repulsive-r-0.8", "coupled-beta2",
    "confidence-penalty", "selective-beta1", "selective-beta2", "selective-beta4", "selective-beta8", "srkd",
}  # fmt: skip


def content(name):
    return yaml.safe_load(experiment_file(name).read_text())


def test_every_experiment_of_the_paper_is_there():
    assert set(experiment_names()) >= PAPER


@pytest.mark.parametrize("name", experiment_names())
def test_an_experiment_states_only_what_it_changes(name):
    """Loss, schedule and what its title says; sizes and epochs belong to base and presets."""
    values = content(name)
    assert values.pop("experiment") == name
    assert set(values) <= {"model", "schedule", "trainer"}
    # Going on with a trained student in another arithmetic is a recipe of its own.
    own = {"student", "learning_rate", "warmup_steps"} if name == QUANTISED_EXPERIMENT else set()
    assert set(values["model"]) <= {"loss", "teacher"} | own


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("srkd", 2, -0.8), ("selective-beta1", 1, -0.8), ("selective-beta2", 2, -0.8), ("selective-beta4", 4, -0.8),
        ("selective-beta8", 8, -0.8), ("coupled-beta2", 2, -0.8), ("repulsive-r-0.5", 1, -0.5),
        ("repulsive-r-0.8", 1, -0.8),
    ],
)  # fmt: skip
def test_weights_start_and_end_where_the_name_says(name, start, end):
    schedule = content(name)["schedule"]["init_args"]
    assert schedule["start"] == start
    assert schedule["start"] * schedule["end_ratio"] == pytest.approx(end)
    kind = content(name)["model"]["loss"]["class_path"]
    assert kind == ("losses.SRKDLoss" if name.startswith(("selective", "srkd")) else "losses.CoupledKDLoss")


@pytest.mark.parametrize("name", ["no-kd", "static-kd", "confidence-penalty", "feature-kd", "teacher"])
def test_unscheduled_experiments_have_no_schedule(name):
    assert "schedule" not in content(name)


def test_a_typo_names_the_closest_and_lists_all():
    with pytest.raises(
        ValueError, match=r"EXP=srdk: no such experiment; did you mean srkd\? \(choose from: .*no-kd"
    ):
        experiment_file("srdk")
    with pytest.raises(ValueError, match=r"DATA=phantm: no such data preset; did you mean phantom\?"):
        preset_file("phantm")


def test_files_are_read_from_general_to_particular():
    recipe = recipe_of(["fit", "--config", "experiments/srkd.yaml"])
    assert recipe.experiment == "srkd"
    assert recipe.config_files == (BASE, PRESETS / "phantom.yaml")
    recipe = recipe_of(["fit", f"--config={PRESETS}/hc18.yaml", f"--config={ROOT}/teacher.yaml"])
    assert recipe.config_files == (BASE, PRESETS / "hc18.yaml", PRESETS / "teacher" / "hc18.yaml")


def test_a_saved_configuration_stands_alone():
    recipe = recipe_of(["fit", "--config", "outputs/srkd/run/config.yaml"])
    assert recipe.config_files == (BASE,)


def test_a_preset_without_a_small_teacher_says_where_its_teacher_comes_from():
    with pytest.raises(ValueError, match=r"EXP=teacher DATA=planes: .*published teacher"):
        recipe_of(["fit", f"--config={PRESETS}/planes.yaml", f"--config={ROOT}/teacher.yaml"])


def test_names_are_file_names():
    assert all(Path(experiment_file(name)).is_file() for name in experiment_names())
