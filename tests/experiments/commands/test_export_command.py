"""Which corpus an export is calibrated and judged on, and what the run behind a checkpoint says of itself."""

import os
import re
import shlex
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from datamodules.evaluation.protocol import Protocol
from experiments.commands.export import load_model_to_export, main, options_of, parse, prompts_of
from experiments.commands.latency import open_subject
from experiments.plain_errors import UsageError
from experiments.process import TerminatedError
from experiments.runs.run_record import run_config, training_facts
from export import Options
from export.parity.ledger import GateFailedError
from metrics.benchmarks import BENCHMARKS
from tests.conftest import ROOT, make

FOLDERS = ("HC18_ROOT", "PLANES_ROOT", "SHARDS")


@pytest.fixture(autouse=True)
def no_folders(monkeypatch):
    for variable in FOLDERS:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in the folder of a run on HC18, with a split of its own."""
    arguments = {"root": "/scans/HC18", "split_seed": 3}
    teacher = {"class_path": "models.OpenCLIPEncoder", "init_args": {"name": "FetalCLIP", "weights": "f.pt"}}
    student = {"class_path": "models.OpenCLIPEncoder", "init_args": {"name": "MobileCLIP2-S0"}}
    config = {
        "data": {"class_path": "datamodules.HC18DataModule", "init_args": arguments},
        "model": {"teacher": teacher, "student": student, "loss": {"class_path": "losses.SRKDLoss"}},
    }
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    path.touch()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def test_make_hands_the_corpus_on_only_when_it_is_named():
    assert "'x.ckpt' --preset=hc18" in make("-n", "export", "CKPT=x.ckpt", "DATA=hc18").stdout
    assert "--preset" not in make("-n", "export", "CKPT=x.ckpt").stdout


def test_a_named_corpus_is_read_from_its_variable(monkeypatch):
    monkeypatch.setenv("HC18_ROOT", "/x/HC18")
    config = parse(["x.ckpt", "--preset=hc18"])
    assert config.preset == "hc18"
    assert config.data.class_path == "datamodules.HC18DataModule"
    assert config.data.init_args.root == "/x/HC18"
    assert parse(["--preset", "hc18", "x.ckpt", "--data.root=/y"]).data.init_args.root == "/y"


def test_without_a_name_the_corpus_and_split_are_those_of_the_run(checkpoint, monkeypatch):
    for argv in ([str(checkpoint)], ["--out", "folder", str(checkpoint)], [str(checkpoint), "--preset=hc18"]):
        config = parse(argv)
        assert config.preset == "hc18"
        assert (config.data.init_args.root, config.data.init_args.split_seed) == ("/scans/HC18", 3)
    monkeypatch.setenv("HC18_ROOT", "/elsewhere")
    config = parse([str(checkpoint)])
    assert (config.data.init_args.root, config.data.init_args.split_seed) == ("/elsewhere", 3)
    assert parse([str(checkpoint), "--preset=phantom"]).data.class_path == "datamodules.PhantomDataModule"
    assert parse(["elsewhere.ckpt"]).preset == parse(["random:MobileCLIP2-S0"]).preset == "phantom"


@pytest.mark.parametrize("tail", [["--preset"], ["--preset="], ["--preset", "--text_encoder=true"]])
def test_a_preset_without_a_name_is_one_line(tail):
    with pytest.raises((ValueError, UsageError)) as refused:
        parse(["x.ckpt", *tail])
    assert re.search("preset", str(getattr(refused.value, "message", refused.value)))


def test_a_run_tells_its_data_teacher_and_start(checkpoint):
    teacher = {"class_path": "models.OpenCLIPEncoder", "sha256": "ab", "licence": "CC BY-NC 4.0"}
    facts = training_facts(run_config(str(checkpoint)), {"teacher": teacher, "start": None})
    assert (facts["teacher_sha256"], facts["teacher_licence"]) == ("ab", "CC BY-NC 4.0")
    assert facts["data"] == "datamodules.HC18DataModule, root HC18"
    assert facts["teacher"] == "models.OpenCLIPEncoder, name FetalCLIP, weights f.pt"
    assert facts["corpus"] == "hc18"
    assert (facts["loss"], facts["start"]) == ("losses.SRKDLoss", "random weights")
    assert training_facts(None, {}) == {}


def test_a_damaged_run_file_is_named(checkpoint):
    (checkpoint.parents[1] / "config.yaml").write_text("data: [")
    with pytest.raises(ValueError, match=r"config\.yaml: not YAML[^\n]*$"):
        parse([str(checkpoint)])


@pytest.mark.parametrize("inside", ["", "checkpoints"])
@pytest.mark.parametrize("exported", [False, True])
def test_a_runs_folder_is_answered_with_its_checkpoint_and_its_export(checkpoint, tmp_path, inside, exported):
    run = checkpoint.parents[1]
    line = f"{run / inside}: a run's folder; give CKPT={checkpoint}"
    if exported:
        (run / "export").mkdir()
        (run / "export" / "manifest.json").write_text("{}")
        line += f" or its export, EXPORT={run / 'export'}"
    for command in (load_model_to_export, lambda name: open_subject(name, tmp_path, True)):
        with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
            command(str(run / inside))


HINT = "give the folder that make export CKPT=... wrote"
NEITHER = "no such checkpoint and no export (make export CKPT=... writes one)"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("docs", f"docs: no manifest.json; {HINT}"),
        ("nothing", f"nothing: {NEITHER}"),
        ("run/export", f"run/export: {NEITHER}"),
        ("run/best.ckpt", f"run/best.ckpt: {NEITHER}"),
    ],
)
def test_what_is_no_export_and_no_checkpoint_is_one_line(tmp_path, monkeypatch, name, answer):
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=f"^{re.escape(answer)}$"):
        open_subject(name, tmp_path, True)


def test_an_export_is_no_checkpoint(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^CKPT=.*: an export; give the checkpoint that it was made from$"):
        load_model_to_export(str(tmp_path))


@pytest.mark.parametrize(
    "tail",
    [
        ["--dynamic-batch", "--skip=int8,coreml", "--spacings=0.21"],
        ["--dynamic_batch=true", "--skip=[int8,coreml]", '--spacings=["0.21"]'],
    ],
)
def test_names_with_dashes_bare_flags_and_lone_values_are_taken(tail):
    options = options_of(parse([*tail[:1], "x.ckpt", *tail[1:]]))
    assert options.dynamic_batch
    assert not options.text_encoder
    assert (options.skip, options.printed_spacings) == (["int8", "coreml"], ["0.21"])
    assert not options_of(parse(["x.ckpt", "--dynamic-batch", "false"])).dynamic_batch


@pytest.mark.parametrize(
    ("tail", "skip"),
    [
        (["--skip", "int8"], ["int8"]),
        (["--skip", "int8", "--frames=3", "--skip=[coreml,onnx-int8]"], ["int8", "coreml", "onnx-int8"]),
        (["--skip=[]"], []),
    ],
)
def test_lists_are_taken_bare_and_repeated(tail, skip):
    for given in (["x.ckpt", *tail], [*tail, "x.ckpt"]):
        config = parse(given)
        assert config.checkpoint == "x.ckpt"
        assert options_of(config).skip == skip


def test_spacings_are_taken_bare_and_repeated():
    options = options_of(parse(["x.ckpt", "--spacings", "0.21", '--spacings=["0.3"]', "--only-spacings"]))
    assert options.printed_spacings == ["0.21", "0.30"]
    assert options.only_spacings


def test_a_list_without_a_value_is_one_line():
    with pytest.raises(UsageError) as refused:
        parse(["x.ckpt", "--skip", "--dynamic-batch"])
    assert refused.value.message.startswith("--skip: give a value")


@pytest.mark.parametrize(
    ("tail", "answer"),
    [
        (["--skip=[int9]"], "--skip: unknown variant 'int9'; did you mean int8?"),
        (["--only-spacings"], "--only_spacings: needs --spacings"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line_before_any_work(tail, answer):
    with pytest.raises(ValueError, match=f"^{re.escape(answer)}[^\n]*$"):
        options_of(parse(["x.ckpt", *tail]))


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("--frame=3", "--frame: no such option; did you mean --frames?"),
        ("--split=tests", "split: expected test or val or all, not tests"),
        ("--frames=0", "frames: Not of type PositiveInt: does not conform to restriction v>0"),
        (
            "--spacings=[0.21,abc]",
            "spacings: Not of type PixelSpacing: could not convert string to float: 'abc'",
        ),
    ],
)
def test_a_mistyped_option_is_one_line(given, answer):
    with pytest.raises(UsageError) as refused:
        parse(["x.ckpt", given])
    assert refused.value.message == answer


def test_a_random_model_takes_one_spacing_and_few_frames():
    options = options_of(parse(["random:MobileCLIP2-S0"]))
    assert (options.printed_spacings, options.only_spacings, options.frames) == (["0.30"], True, 48)


def guide_commands():
    """Return every `make export` of the deployment guide, and every ARGS= in its prose, as arguments of make."""
    text = (ROOT / "docs" / "deploy.md").read_text().replace("<run>", "RUN")
    lines = [line.partition("#")[0] for line in text.splitlines() if line.startswith("make export")]
    lines += [part for part in re.findall(r"`([^`]+)`", text) if part.startswith("make export ")]
    lines = [line.replace("CKPT=...", "CKPT=x.ckpt").replace("=.../", "=x/") for line in lines]
    loose = [line.partition("# ")[2] for line in text.splitlines() if line.startswith("make export")]
    loose += re.findall(r"`(ARGS=[^`]+)`", text)
    return [*lines, *(f"make export CKPT=x.ckpt {part}" for part in loose if part)]


@pytest.mark.parametrize("command", guide_commands())
def test_the_guides_commands_are_taken_as_they_stand(command):
    given = [part for part in shlex.split(command)[2:] if not part.startswith("CKPT=")]
    argv = shlex.split(make("-n", "export", "CKPT=x.ckpt", *given).stdout)
    assert argv[:4] == [".venv/bin/python", "-m", "experiments", "export"]
    options = options_of(parse(argv[4:]))
    if "spacings" in command:
        assert (options.printed_spacings, options.only_spacings) == (["0.21"], True)
    if "skip" in command:
        assert options.skip == ["coreml-palette6", "int8"]
    if "dynamic" in command:
        assert options.dynamic_batch
        assert options.text_encoder


def test_a_missed_gate_ends_with_status_1_and_no_usage_error(tmp_path, monkeypatch, capsys):
    def missed(*_):
        raise GateFailedError("export: row onnx-fp32: cosine 0.9")

    monkeypatch.setattr("experiments.commands.export.export_student", missed)
    monkeypatch.setattr("experiments.commands.export.load_model_to_export", lambda _: (None, {}))
    assert main(["random:MobileCLIP2-S0", f"--out={tmp_path / 'new'}"]) == 1
    assert capsys.readouterr().err == "error: export: row onnx-fp32: cosine 0.9\n"


def test_sigterm_removes_what_is_half_written_also_where_a_converter_has_a_fallback(tmp_path, monkeypatch):
    def converter(folder, *_):
        assert folder.is_dir()
        with suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(9)

    student = SimpleNamespace(eval=lambda: student, recipe=dict)
    monkeypatch.setattr("experiments.commands.export.load_model_to_export", lambda _: (student, {}))
    monkeypatch.setattr("export.build._fill", converter)
    with pytest.raises(TerminatedError):
        main(["random:MobileCLIP2-S0", f"--out={tmp_path / 'new' / 'export'}"])
    assert list((tmp_path / "new").iterdir()) == []


def test_a_group_leaves_out_all_its_variants():
    assert Options(skip=["int8"]).left_out == {"onnx-int8", "openvino-int8", "litert-int8", "coreml-int8"}
    left_out = Options(skip=["coreml", "openvino-bf16"]).left_out
    assert {"coreml-fp16", "coreml-planes", "coreml-palette8", "openvino-bf16"} < left_out
    assert not {"onnx-int8", "onnx-fp32"} & left_out


@pytest.mark.parametrize("place", ["folder", "file"])
def test_only_an_earlier_export_is_replaced(tmp_path, place):
    target = tmp_path / "outputs"
    if place == "folder":
        target.mkdir()
        (target / "manifest.json").write_text('{"name": "a web app"}')
    else:
        target.write_text("notes")
    with pytest.raises(ValueError, match=r"^--out=.*outputs: exists and is not an export[^\n]*$"):
        main(["random:no-such-model", f"--out={target}"])
    assert target.exists()
    assert (target / "manifest.json").is_file() == (place == "folder")


def test_the_prompts_of_a_calibration_are_exported_with_it(tmp_path, capsys):
    own = {**Protocol.load().content(), "biometry": ["{weeks} and {days}"]}
    torch.save({"answers": {"prompts": own, "none_below": {}, "coverage": 0.9}}, tmp_path / "best.ckpt")
    protocol, calibration = prompts_of(str(tmp_path / "best.ckpt"), None)
    assert (protocol.content(), calibration["coverage"]) == (own, 0.9)
    protocol.save(tmp_path / "own.json")
    assert prompts_of(str(tmp_path / "best.ckpt"), str(tmp_path / "own.json"))[1] == calibration
    assert capsys.readouterr().out == ""
    Protocol.load().save(tmp_path / "other.json")
    protocol, calibration = prompts_of(str(tmp_path / "best.ckpt"), str(tmp_path / "other.json"))
    assert (protocol, calibration) == (Protocol.load(), None)
    assert "not calibrated for these prompts" in capsys.readouterr().out


@pytest.mark.parametrize(("trained", "kept"), [("a scan", ["clinic", "planes"]), ("a video", ["planes"])])
def test_a_threshold_of_other_prompts_is_not_exported(tmp_path, monkeypatch, capsys, trained, kept):
    now = replace(BENCHMARKS["planes"], name="clinic", classes={"yes": ["a scan"], "no": ["none"]}, own=True)
    monkeypatch.setitem(BENCHMARKS, "clinic", now)
    below = {"clinic": 1.0, "planes": 2.0}
    answers = {"prompts": Protocol.load().content(), "none_below": below, "coverage": 0.9}
    own = {"clinic": {"yes": [trained], "no": ["none"]}}
    torch.save({"answers": answers, "own_classes": own}, tmp_path / "best.ckpt")
    _, calibration = prompts_of(str(tmp_path / "best.ckpt"), None)
    assert calibration["none_below"] == {name: below[name] for name in kept}
    assert ("clinic: prompts changed" in capsys.readouterr().out) == ("clinic" not in kept)
