"""Teachers of the presets: shipped, trained by one command and kept, never trained or replaced unasked."""

import sys
from pathlib import Path

import pytest
import torch

from datamodules import PhantomDataModule
from datamodules.phantom.corpus import PhantomSettings
from datamodules.phantom.datamodule import HC18_TEST_SHARE
from experiments.commands import train as command_line
from experiments.config import resolve
from experiments.recipe_files import Recipe
from experiments.runs.cli import SonoDistillCLI
from experiments.runs.run_record import cautions, patients, read_record
from experiments.runs.teachers import KEPT, SHIPPED, publish_teacher, settle_teachers
from models import build, from_checkpoint, save_half


class ResolvedError(Exception):
    """Carries the command line's object out, before anything is built."""


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Return the settled configuration of a short command, run in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def stop(cli):
        raise ResolvedError(cli)

    def start(*arguments):
        argv = command_line.lightning_arguments(list(arguments))
        monkeypatch.setattr(sys, "argv", ["experiments", *argv])
        monkeypatch.setattr(SonoDistillCLI, "before_instantiate_classes", stop)
        with pytest.raises(ResolvedError) as caught:
            SonoDistillCLI(argv, arguments)
        cli = caught.value.args[0]
        config = cli.config[cli.subcommand]
        settle_teachers(config)
        return config

    return start


def file_of(tower):
    return Path(tower.init_args.path)


def test_the_phantoms_teacher_is_shipped(start):
    shipped = SHIPPED / "phantom.safetensors"
    assert shipped.stat().st_size <= 8e6
    assert file_of(start("train", "srkd", "phantom").model.teacher) == shipped
    assert file_of(start("evaluate", "phantom", "teacher").model.student) == shipped
    assert file_of(start("train", "teacher", "hc18").model.student) == shipped


def test_the_teachers_image_tower_is_25_times_the_students():
    config = resolve("srkd", "phantom")
    student = build(config.model.student.as_dict())
    teacher = from_checkpoint(str(SHIPPED / "phantom.safetensors"))

    def image_parameters(model):
        return sum(p.numel() for name, p in model.named_parameters() if name.startswith(("trunk.", "image_")))

    assert image_parameters(teacher) >= 25 * image_parameters(student)


def test_the_shipped_teacher_shares_no_patient_with_the_default_corpus():
    """Patients of different seeds are drawn independently: no two agree in age, growth and head shape."""

    def drawn(settings):
        return {
            (picture.patient.ga_days, picture.patient.growth_z, picture.patient.head_ratio)
            for picture in settings.pictures()
        }

    record = read_record(str(SHIPPED / "phantom.safetensors"))["data"]
    of_teacher = PhantomSettings(**record["settings"]["corpus"])
    assert of_teacher.num_planes_images + of_teacher.num_hc18_images >= 30_000
    assert of_teacher.seed != PhantomSettings().seed
    assert not drawn(of_teacher) & drawn(PhantomSettings())


def test_a_run_on_the_shipped_teachers_own_patients_is_warned(start):
    config = start("train", "srkd", "phantom")
    assert cautions(config, trains=True) == []
    seed = read_record(str(SHIPPED / "phantom.safetensors"))["data"]["settings"]["corpus"]["seed"]
    (said,) = cautions(start("train", "srkd", "phantom", f"--data.corpus.seed={seed}"), trains=True)
    assert "test patients here may be among its training patients" in said


@pytest.mark.parametrize("command", [("train", "no-kd", "hc18"), ("evaluate", "hc18", "teacher")])
def test_a_missing_teacher_is_one_line_with_its_command(start, command):
    with pytest.raises(FileNotFoundError) as refusal:
        start(*command)
    message = str(refusal.value)
    assert "make train EXP=teacher DATA=hc18" in message
    assert "\n" not in message
    assert not Path("outputs").exists()


def test_a_teacher_of_ones_own_is_left_alone(start, tmp_path):
    own = tmp_path / "own.ckpt"
    own.touch()
    assert file_of(start("train", "srkd", "hc18", f"--teacher={own}").model.teacher) == own


@pytest.fixture
def trained(start, tiny_hc18, tmp_path, monkeypatch):
    """End a training of HC18's teacher with given options; return its checkpoint."""
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))

    def trained(scale, *options):
        config = start("train", "teacher", "hc18", *options)
        model = from_checkpoint(str(file_of(config.model.student)))
        torch.nn.init.constant_(model.scale, scale)
        best = tmp_path / f"best-{scale}.ckpt"
        content = {"recipe": model.recipe(), "preprocessing": model.preprocessing.to_dict()}
        state = {f"student.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": state, "student": content, "run": {"data": patients(config.data)}}, best)
        publish_teacher(best, Recipe("teacher", "hc18", ()), config)
        return best

    return trained


def test_a_trained_teacher_is_kept_in_half_precision_and_found(start, trained, capsys):
    trained(2.5, "--data.num_workers=0", "--score_test_patients=false")
    kept = KEPT / "hc18.safetensors"
    assert capsys.readouterr().out == f"teacher kept at {kept}\n"
    config = start("train", "srkd", "hc18")
    assert file_of(config.model.teacher) == kept
    assert cautions(config, trains=True) == []
    assert from_checkpoint(str(kept)).scale.item() == 2.5
    (said,) = cautions(start("train", "srkd", "hc18", "--data.split_seed=7"), trains=True)
    assert "another split of these data" in said


def test_a_teacher_of_other_data_replaces_none(trained, tiny_hc18, capsys):
    trained(2.5)
    (table,) = tiny_hc18.glob("training*.csv")
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    other = trained(1.5)
    assert f"other data and stays; TEACHER={other} distils from this teacher" in capsys.readouterr().out
    assert from_checkpoint(str(KEPT / "hc18.safetensors")).scale.item() == 2.5


def test_a_trial_does_not_replace_the_presets_teacher(start, trained, capsys):
    trained(2.5)
    for option in ("--trainer.max_epochs=1", "--data.split_seed=4"):
        trial = trained(1.5, option)
        assert f"TEACHER={trial} distils from this teacher" in capsys.readouterr().out, option
        assert from_checkpoint(str(KEPT / "hc18.safetensors")).scale.item() == 2.5, option


def test_half_precision_keeps_what_a_model_says(tmp_path):
    torch.manual_seed(0)
    model = build(resolve("srkd", "phantom").model.student.as_dict()).eval()
    save_half(model, tmp_path / "half.safetensors", note="kept")
    again = from_checkpoint(str(tmp_path / "half.safetensors")).eval()
    assert again.preprocessing == model.preprocessing
    assert all(p.dtype == torch.float32 for p in again.parameters())
    image = torch.rand(4, 3, 88, 88)
    with torch.no_grad():
        cosine = (model.encode_image(image) * again.encode_image(image)).sum(dim=1)
    assert cosine.min() > 0.999  # half precision rounds weights by 2^-11


def test_a_published_student_without_its_weights_is_named_once(start, tmp_path, capsys):
    weights = tmp_path / "weights.pt"
    weights.touch()
    for preset in ("planes", "shards"):
        start("train", "srkd", preset, f"--teacher={weights}")
        (said,) = capsys.readouterr().out.splitlines()
        assert said.startswith("warning: model.student: MobileCLIP2-S0 has random weights; STUDENT=")
    start("train", "srkd", "planes", f"--teacher={weights}", f"--student={weights}")
    # A resumed run has its weights in the checkpoint.
    torch.save({"loops": {}, "student": {}}, tmp_path / "last.ckpt")
    start("train", "srkd", "planes", f"--teacher={weights}", f"--ckpt_path={tmp_path / 'last.ckpt'}")
    assert not capsys.readouterr().out


def test_the_default_test_set_is_large_enough():
    """95 % intervals of at most 4 points of validity and 0.03 of sub-plane F1, at 50 % and 0.8."""
    pictures = PhantomDataModule().corpus.pictures()
    heads = PhantomSettings().num_hc18_images * (HC18_TEST_SHARE + PhantomSettings().further_tests)
    brains = sum(
        picture.corpus == "planes" and picture.plane == "brain" and not picture.patient.train
        for picture in pictures
    )
    assert 1.96 * (0.5 * 0.5 / heads) ** 0.5 <= 0.04
    assert 1.96 * (0.8 * 0.2 / brains) ** 0.5 <= 0.03


def test_a_control_takes_the_teachers_architecture_without_its_weights(tmp_path):
    torch.manual_seed(1)
    model = build(resolve("srkd", "phantom").model.student.as_dict())
    save_half(model, tmp_path / "half.safetensors")
    torch.manual_seed(2)
    untrained = from_checkpoint(str(tmp_path / "half.safetensors"), untrained=True)
    assert untrained.recipe() == model.recipe()
    assert not torch.equal(untrained.image_projection.weight, model.image_projection.weight)
    assert resolve("random-teacher", "phantom").model.teacher.init_args.untrained is True
