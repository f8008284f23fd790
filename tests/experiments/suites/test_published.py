"""`reproduce published`: what is evaluated, what is missing, and the table, with a stub in place of evaluation."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datamodules.evaluation.protocol import DEFAULT_PROTOCOL, Protocol
from experiments.commands.results import reproduce as main
from experiments.suites import published
from experiments.suites.published import SOURCES, plan
from models import OpenCLIPEncoder
from tests.models.checkpoints.apple_layout import to_released_student

ROOT = Path(__file__).resolve().parents[3]
# Stub of `python -m experiments evaluate`, found in the current folder: scores that tell model and corpus apart.
EVALUATION = """
import json, pathlib, sys
command, preset, model = sys.argv[1:4]
options = dict(argument.split("=", 1) for argument in sys.argv[4:])
with open("calls.jsonl", "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if pathlib.Path("broken").exists() and preset == "planes":
    sys.exit(2)
names = {"hc18": ("hc18",), "planes": ("planes", "subplanes")}[preset]
shift = 0.0 if pathlib.Path(model).stem == "released" else 0.1
metrics = {"constant/hc18/age_days": 141.0, "constant/hc18/validity": 59.09,
           "constant/hc18/validity_ci_low": 55.7, "constant/hc18/validity_ci_high": 62.4,
           "pixel_size/hc18/validity": 64.1, "pixel_size/hc18/validity_ci_low": 54.3,
           "pixel_size/hc18/validity_ci_high": 73.9, "pixel_size/hc18/mae_weeks": 2.345,
           "teacher/hc18/mae_weeks": 1.234, "teacher/hc18/spearman": 0.987} if preset == "hc18" else {}
for role, base in {"student": 0.5 + shift, "teacher": 0.7}.items():
    for name in names + (("eight_class",) if preset == "planes" else ()):
        key, scale = ("validity", 100) if name == "hc18" else ("f1", 1)
        value = base + 0.01 * len(name)
        for suffix, step in (("", 0), ("_ci_low", -0.05), ("_ci_high", 0.05)):
            metrics[f"{role}/{name}/{key}{suffix}"] = scale * (value + step)
        metrics[f"{role}/{name}/n_scored"] = 8.0
folder = pathlib.Path("outputs/evaluate") / options["--run"]
folder.mkdir(parents=True)
details = {name: {"split": "all", "protocol": "abc"} for name in names}
record = {"metrics": metrics, "details": {"student": details}, "cautions": [f"student {model} has seen them"]}
(folder / "results.json").write_text(json.dumps(record))
"""


@pytest.fixture
def workplace(tmp_path, tiny_hc18, tiny_planes, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").touch()  # a regular package: comes before the installed one
    (tmp_path / "experiments" / "__main__.py").write_text(EVALUATION)
    for name in ("teacher", "released", "other"):
        (tmp_path / f"{name}.pt").write_text(name)
    (tmp_path / "outputs" / "srkd" / "mine" / "checkpoints").mkdir(parents=True)
    (tmp_path / "outputs/srkd/mine/checkpoints/best.ckpt").write_text("mine")
    (tmp_path / "outputs/srkd/mine/config.yaml").write_text("experiment: srkd\ndata: {class_path: x}\n")
    Protocol.load(DEFAULT_PROTOCOL).save(tmp_path / "protocol.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HC18_ROOT", str(tiny_hc18))
    monkeypatch.setenv("PLANES_ROOT", str(tiny_planes))
    return tmp_path


GIVEN = ["published", "--teacher=teacher.pt", "--student=released.pt", "--protocol=protocol.json"]
OWN = "--ckpt=outputs/srkd/mine/checkpoints/best.ckpt"


def calls():
    return [json.loads(line) for line in Path("calls.jsonl").read_text().splitlines()]


def cells(text):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    return {(row[0], row[1]): row[2:] for row in rows[2:]}


def test_every_model_is_scored_on_all_images_and_stands_beside_the_published_values(workplace, capfd):
    assert main([*GIVEN, OWN, "--data.num_workers=0"]) == 0
    scored = [(call[1], Path(call[2]).name) for call in calls()]
    assert scored == [
        (preset, name) for name in ("released.pt", "best.ckpt") for preset in ("hc18", "planes")
    ]
    for call in calls():
        assert call[0] == "evaluate"
        expected = {"--planes.test_split=all", "--biometry.test_split=all", "--protocol=protocol.json"}
        assert {*expected, "--data.num_workers=0"} <= set(call)
    assert ["--teacher=teacher.pt" in call for call in calls()] == [True, True, False, False]
    assert ["--model.teacher=null" in call for call in calls()] == [False, False, True, True]
    text = (workplace / "outputs" / "tables" / "published.md").read_text()
    assert text in capfd.readouterr().out
    found = cells(text)
    teacher, released = "FetalCLIP, the teacher", "MobileFetalCLIP, the released student"
    validity = "HC18 validity, %"
    assert found[teacher, validity] == ["83.5", "83.4", "74.0", "69.0 to 79.0"]
    assert found[teacher, "five-plane F1"] == ["-", "0.973", "0.760", "0.710 to 0.810"]
    assert found[teacher, "brain sub-plane F1"][:2] == ["0.702", "0.693"]
    # (5 x 0.97275 + 3 x 0.69293) / 8
    assert found[teacher, "8-class F1"] == ["0.871", "0.868", "0.810", "0.760 to 0.860"]
    assert found[released, validity] == ["88.6", "-", "54.0", "49.0 to 59.0"]
    assert found["student trained here (srkd)", validity] == ["88.6", "-", "64.0", "59.0 to 69.0"]
    assert found["no model: pixel size alone", validity] == ["-", "-", "64.1", "54.3 to 73.9"]
    assert found["no model: constant age 20w1d", validity] == [
        "-",
        "-",
        "59.1",
        "55.7 to 62.4",
    ]
    assert found[teacher, "HC18 MAE, weeks"] == ["-", "-", "1.23", "-"]
    assert found[teacher, "HC18 Spearman"] == ["-", "-", "0.987", "-"]
    assert found["no model: pixel size alone", "HC18 MAE, weeks"] == ["-", "-", "2.35", "-"]
    assert len(found) == 21, "three models with six scores, and two baselines with one and with two"
    assert "best.ckpt has seen them" in text


def test_what_was_evaluated_is_not_evaluated_again_until_a_file_changes(workplace):
    assert main(GIVEN) == main(GIVEN) == 0
    assert len(calls()) == 2
    shutil.copy("other.pt", "teacher.pt")
    assert main(GIVEN) == 0
    assert len(calls()) == 4
    table = (workplace / "outputs" / "tables" / "published.md").read_text()
    assert "student trained here" not in table


def test_a_failed_evaluation_is_tried_again(workplace):
    Path("broken").touch()
    assert main(GIVEN) == 1
    assert not (workplace / "outputs" / "tables").exists()
    Path("broken").unlink()
    assert main(GIVEN) == 0
    assert [call[1] for call in calls()] == ["hc18", "planes", "planes"]


def test_other_data_weights_or_options_are_other_evaluations(workplace, monkeypatch):
    files = dict(zip(SOURCES, ("teacher.pt", "released.pt", "protocol.json", None), strict=True))
    data = {}
    monkeypatch.setattr(published, "corpus_digests", lambda *_: data)

    def folders(*options):
        return [run.folder for run in plan(files, options)]

    found = [folders(), folders("--biometry.most_prompts=1")]
    data["HC18_ROOT"] = "other images"
    found.append(folders())
    for name in ("teacher", "released"):
        Path(f"{name}.pt").write_text("other weights")
        found.append(folders())
    assert len({folder for each in found for folder in each}) == 2 * 5
    assert folders() == found[-1]
    assert all("--quick=false" in run.command() for run in plan(files, ()))


def test_published_code_has_no_value_for_what_was_trained_here():
    metrics = {
        "student/hc18/validity": 70.0,
        "teacher/hc18/validity": 74.0,
    }  # no training images: no baseline
    records = {"published": [{"metrics": metrics}], "own": [{"metrics": metrics}]}
    found = published.table(records, "teacher").set_index(["model", "score"])["released code"]
    assert found["FetalCLIP, the teacher", "HC18 validity, %"] == "83.4"
    assert found["student trained here (teacher)", "HC18 validity, %"] == "-"


def test_each_missing_input_is_one_line_that_says_where_it_comes_from(workplace, monkeypatch):
    monkeypatch.setenv("PLANES_ROOT", "nowhere")
    with pytest.raises(ValueError, match="TEACHER=gone") as caught:
        main(["published", "--teacher=gone.pt", "--ckpt=none.ckpt"])
    lines = str(caught.value).split("\nerror: ")
    assert [line.partition("=")[0] for line in lines[:4]] == ["TEACHER", "STUDENT", "PROTOCOL", "CKPT"]
    sources = ("numansaeed/fetalclip-model", "numansaeed/MobileFetalCLIP", "import-protocol", "make train")
    for line, source in zip(lines, sources, strict=False):
        assert source in line
    (corpus,) = lines[4:]
    assert "nowhere" in corpus
    assert "zenodo.org/records/3904280" in corpus


@pytest.mark.slow
def test_published_sizes_with_random_weights(tmp_path, tiny_hc18, tiny_planes):
    """FetalCLIP's and MobileCLIP2-S0's real sizes, in the layouts of the published files, on a handful of images."""
    for table, kept in (
        (tiny_hc18 / "training_set_pixel_size_and_HC.csv", 3),
        (tiny_planes / "FETAL_PLANES_DB_data.csv", 12),
    ):
        lines = table.read_text().splitlines()
        table.write_text("\n".join([lines[0], *lines[8 : 8 + kept]]) + "\n")
    torch.manual_seed(0)
    teacher = OpenCLIPEncoder("FetalCLIP").model.state_dict()
    torch.save(
        {f"module.{name}": value for name, value in teacher.items()}, tmp_path / "FetalCLIP_weights.pt"
    )
    student = to_released_student(OpenCLIPEncoder("MobileCLIP2-S0").model.state_dict())
    torch.save({"state_dict": student}, tmp_path / "released.pt")
    folders = {"HC18_ROOT": str(tiny_hc18), "PLANES_ROOT": str(tiny_planes), "PYTHONPATH": str(ROOT)}
    command = [
        *(sys.executable, "-m", "experiments", "reproduce", "published", "--teacher=FetalCLIP_weights.pt"),
        *("--student=released.pt", f"--protocol={DEFAULT_PROTOCOL}", "--ckpt=released.pt"),
        *("--data.init_args.num_workers=0", "--biometry.most_prompts=1", "--trainer.accelerator=cpu"),
    ]
    environment = {**os.environ, **folders, "WANDB_MODE": "disabled"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = cells((tmp_path / "outputs" / "tables" / "published.md").read_text())
    assert len(found) == 21, "six scores of three models, three of the constant answer"
    assert all(-1 <= float(here) <= 100 for _, _, here, _ in found.values())
    released, own = ("MobileFetalCLIP, the released student", "student trained here")
    for score in ("HC18 validity, %", "8-class F1"):
        assert found[released, score][2:] == found[own, score][2:], "one file, scored twice"
