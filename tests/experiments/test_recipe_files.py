"""Names, typos and the order of YAML files."""

import sys
from pathlib import Path

import pytest
import yaml

from experiments.__main__ import main
from experiments.config import evaluation_arguments, resolve
from experiments.recipe_files import (
    BASE,
    PRESETS,
    QUANTISED_EXPERIMENT,
    ROOT,
    Recipe,
    experiment_file,
    experiment_names,
    explain_names,
    preset_file,
    preset_of,
    recipe_of,
    training_arguments,
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
        ("repulsive-r-0.8", 1, -0.8), ("confidence-penalty", 1, 0.1),
    ],
)  # fmt: skip
def test_weights_start_and_end_where_the_name_says(name, start, end):
    schedule = content(name)["schedule"]["init_args"]
    assert schedule["start"] == start
    assert schedule["start"] * schedule["end_ratio"] == pytest.approx(end)
    kinds = {"selective": "SRKDLoss", "srkd": "SRKDLoss", "confidence": "ConfidencePenaltyKDLoss"}
    kind = kinds.get(name.split("-")[0], "CoupledKDLoss")
    assert content(name)["model"]["loss"]["class_path"] == f"losses.{kind}"


@pytest.mark.parametrize("name", ["no-kd", "static-kd", "feature-kd", "teacher"])
def test_unscheduled_experiments_have_no_schedule(name):
    assert "schedule" not in content(name)


@pytest.mark.parametrize("preset", ["table", "table-small"])
def test_a_saved_configuration_is_of_its_own_preset_where_two_have_one_class(preset, tmp_path, monkeypatch):
    monkeypatch.setenv("TABLE", "table.csv")
    config = resolve("no-kd", preset)
    saved = tmp_path / "config.yaml"
    saved.write_text(
        yaml.safe_dump({"data": {"class_path": config.data.class_path}, "preset": config.preset})
    )
    assert recipe_of(["fit", f"--config={saved}"]).preset == preset
    own = {"data": {"class_path": "my_data.OwnData"}, "preset": preset}
    assert preset_of(own) is None
    with pytest.raises(ValueError, match="--preset: give the data preset by its name"):
        resolve("no-kd", preset, ["--preset=phantom"])


def test_a_typo_names_the_closest_and_lists_all():
    with pytest.raises(
        ValueError, match=r"EXP=srdk: no such experiment; did you mean srkd\? \(choose from: .*no-kd"
    ):
        experiment_file("srdk")
    with pytest.raises(ValueError, match=r"DATA=phantm: no such data preset; did you mean phantom\?"):
        preset_file("phantm")


def test_an_alias_is_the_experiment_itself(monkeypatch, capsys):
    """Its runs and results carry the experiment's own name, so that they are counted with the others."""
    arguments = training_arguments("dark", "phantom")
    assert arguments == training_arguments("srkd", "phantom")
    assert recipe_of(arguments).experiment == content("dark")["experiment"] == "srkd"
    with pytest.raises(FileNotFoundError, match=r"EXP=dark: an experiment to train; give CKPT=outputs/"):
        evaluation_arguments("hc18", "dark")
    with pytest.raises(ValueError, match=r"EXP=drak: .*did you mean dark\?"):
        experiment_file("drak")
    assert "dark (= srkd)" in explain_names("train", [])
    monkeypatch.setattr(sys, "argv", ["experiments", "list"])
    main()
    assert "dark (= srkd)" in capsys.readouterr().out


def test_files_are_read_from_general_to_particular():
    recipe = recipe_of(["fit", "--config", "experiments/recipes/srkd.yaml"])
    assert recipe.experiment == "srkd"
    assert recipe.config_files == (BASE, PRESETS / "phantom.yaml")
    recipe = recipe_of(["fit", f"--config={PRESETS}/hc18.yaml", f"--config={ROOT}/teacher.yaml"])
    assert recipe.config_files == (BASE, PRESETS / "hc18.yaml", PRESETS / "teacher" / "hc18.yaml")


def test_a_saved_configuration_stands_alone(tmp_path):
    saved = tmp_path / "config.yaml"
    saved.write_text("{data: {class_path: datamodules.HC18DataModule}}")
    assert recipe_of(["fit", "--config", str(saved), "--run=again"]) == Recipe(None, "hc18", (BASE,))


def test_a_preset_without_a_small_teacher_says_where_its_teacher_comes_from():
    with pytest.raises(ValueError, match=r"EXP=teacher DATA=planes: .*published teacher"):
        recipe_of(["fit", f"--config={PRESETS}/planes.yaml", f"--config={ROOT}/teacher.yaml"])


def test_an_evaluations_folder_tells_what_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "outputs" / "srkd" / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"")

    def run(*options):
        arguments = evaluation_arguments("hc18", str(checkpoint), options)
        (name,) = [argument for argument in arguments if argument.startswith("--run=")]
        return name.removeprefix("--run=")

    assert run() == "srkd-run-best-on-hc18"
    asked = [
        (),
        ("--teacher=/x/FetalCLIP.pt",),
        ("--teacher=/y/FetalCLIP.pt",),
        ("--protocol=p.json",),
        ("--biometry.test_split=all",),
    ]
    assert len({run(*options) for options in asked}) == len(asked)
    assert run(*asked[1]) == run(*asked[1])
    assert "FetalCLIP" in run(*asked[1])


def test_an_evaluation_stays_below_outputs(tmp_path, monkeypatch):
    (tmp_path / "x.pt").write_bytes(b"")
    # A file two steps below the root, such as /weights/x.pt.
    monkeypatch.setattr(Path, "resolve", lambda self: Path("/weights") / self.name)
    (name,) = [a for a in evaluation_arguments("hc18", str(tmp_path / "x.pt")) if a.startswith("--run=")]
    assert name == "--run=weights-x-on-hc18"


def test_a_folder_of_transformers_is_a_checkpoint_too(tmp_path):
    (tmp_path / "clip").mkdir()
    assert any("models.from_checkpoint" in a for a in evaluation_arguments("hc18", str(tmp_path / "clip")))
    with pytest.raises(FileNotFoundError, match="CKPT=nowhere: no such file"):
        evaluation_arguments("hc18", "nowhere")


@pytest.mark.parametrize("given", ["outputs/srkd/run", "outputs/srkd/run/checkpoints"])
def test_a_runs_folder_is_answered_with_its_checkpoint(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    best = Path("outputs/srkd/run/checkpoints/best.ckpt")
    best.parent.mkdir(parents=True)
    best.touch()
    with pytest.raises(FileNotFoundError, match=rf"^CKPT={given}: a run's folder; give CKPT={best}$"):
        evaluation_arguments("hc18", given)


def test_an_experiment_is_not_evaluated_without_its_checkpoint():
    with pytest.raises(FileNotFoundError, match=r"EXP=srkd: an experiment to train; give CKPT=outputs/"):
        evaluation_arguments("hc18", "srkd")
