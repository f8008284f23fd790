"""The report's HTML: complete, self-contained, and safe against hostile names."""

import json
import re
import shlex
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from experiments import process
from experiments.commands.latency import DEFAULT_OUT, default_folder
from experiments.report import tables, write_report
from experiments.report.page import commands
from experiments.report.read_run import read_run
from figures.style import PALETTE
from metrics.names import final_name

HOSTILE = '</title><script>alert("x")</script><img src=x onerror=alert(1)> & $\\frac{1}{0}$'
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Outline(HTMLParser):
    """Collects tags, attributes, identifiers and text, and checks that every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.identifiers, self.open, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} {name}"
            if name in ("src", "href", "xlink:href"):
                self.links.append(value)
            if name == "id":
                self.identifiers.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def read(path):
    text = path.read_text(encoding="utf-8")
    outline = Outline(text)
    return text, outline, re.sub(r"\s+", " ", " ".join(outline.words))


def test_one_run_has_every_section(single_page):
    assert single_page.name == "report.html"
    assert (single_page.parent / "results.json").is_file()  # in the run's own folder
    text, outline, words = read(single_page)
    for heading in (
        "Did repulsion help?", "Where?", "At what point of training?", "Scores on test patients",
        "Off-diagonal weight", "zero at step 143", "student minus teacher", "Gestational age",
        "student before training", "student after training", "only the student right",
        "Expected calibration error", "after fitting)", "by machine", "0.700 to 0.990",
        "Main settings", "git checkout", "simulated",
        "-m experiments train srkd phantom '--run=made up'", "with uncommitted changes", "Not a medical device",
    ):  # fmt: skip
        assert heading in words, heading
    assert not {"script", "noscript"} & {*outline.tags}, "it reads the same without JavaScript"
    assert outline.tags.count("img") > 10
    assert len(text) < 6_000_000


def test_nothing_is_fetched_and_no_identifier_is_used_twice(comparison_page):
    text, outline, _ = read(comparison_page)
    assert {link.partition(":")[0] for link in outline.links if not link.startswith("#")} == {"data"}
    assert all(link[1:] in outline.identifiers for link in outline.links if link.startswith("#"))
    assert len(outline.identifiers) == len(set(outline.identifiers))
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_the_headline_numbers_are_those_of_the_results(single_page):
    metrics = json.loads((single_page.parent / "results.json").read_text())["metrics"]
    _, _, words = read(single_page)
    for name in ("student/planes/f1", "teacher/subplanes/f1", "random/planes/f1"):
        assert f"{metrics[name]:.3f}" in words
    assert f"{metrics['student/hc18/validity']:.1f}" in words
    assert "88.6" in words  # the paper's
    age, validity, low, high = (
        metrics[f"constant/hc18/{key}"]
        for key in ("age_days", "validity", "validity_ci_low", "validity_ci_high")
    )
    row = words.split(f"constant age {age // 7:.0f}w{age % 7:.0f}d", 1)[1][:80].split()
    none = tables.NOTHING
    # No planes and no F1 without images; validity with its interval; no composite, whose parts it lacks.
    assert row[:9] == [none, none, f"{validity:.1f}", f"{low:.1f}", "to", f"{high:.1f}", none, none, none]


def test_baselines_and_ablations_stand_beside_the_scores(single_page):
    record = json.loads((single_page.parent / "results.json").read_text())
    metrics = record["metrics"]
    _, _, words = read(single_page)
    heads = words.split("HC18 validity, %, beside answers without an image")[1].split(
        "What the student reads"
    )[0]
    keys = ("validity_ci_high", "validity_patient_ci_low", "mae_weeks", "spearman")
    for model in ("student", "teacher", "pixel_size", "constant"):
        for key, digits in zip(keys, (1, 1, 1, 2), strict=True):
            value = metrics.get(f"{model}/hc18/{key}")
            assert (tables.NOTHING if value is None else f"{value:.{digits}f}") in heads, (model, key)
    assert "pixel size alone" in heads
    ablated = words.split("student with part of its input")[1].split("By class")[0]
    change = metrics["student/hc18/validity"] - 33.5
    assert f"another patient's image, own pixel size 33.5 {tables.MINUS}{change:.1f}" in ablated
    assert "no baselines" not in words


@pytest.mark.usefixtures("without_drawings")
def test_a_report_says_why_there_is_no_baseline(make_run, tmp_path):
    folder = make_run()
    record = json.loads((folder / "results.json").read_text())
    record["details"]["constant"] = {"hc18": {"lacking": "no image of benchmark 'hc18' in split 'train'"}}
    record["metrics"] = {
        key: value
        for key, value in record["metrics"].items()
        if not key.startswith(("constant/", "pixel_size/"))
    }
    (folder / "results.json").write_text(json.dumps(record))
    _, _, words = read(write_report([folder], tmp_path / "none.html"))
    assert "HC18 validity, %: no baselines. no image of benchmark 'hc18' in split 'train'" in words
    assert "constant age" not in words


def test_several_runs_are_laid_side_by_side(comparison_page):
    _, _, words = read(comparison_page)
    for part in ("srkd over static-kd", "Settings that differ", "schedule.init_args.end_ratio"):
        assert part in words, part
    assert "default_root_dir" not in words.split("Settings that differ")[1].split("Repeat it")[0]
    srkd, static = words.split("Training: srkd")[1].split("Training: static-kd")
    assert "Shaded: the off-diagonal weight is negative" in srkd
    assert "Shaded:" not in static


@pytest.mark.usefixtures("without_drawings")
def test_two_runs_of_one_experiment_keep_their_own_names(make_run, tmp_path):
    runs = [make_run(run="a"), make_run(run="b", seed=4), make_run("no-kd")]
    _, _, words = read(write_report(runs, tmp_path / "three.html"))
    assert words.strip().startswith("SonoDistill: srkd/a, srkd/b, no-kd on phantom")


def test_hostile_names_stay_text(make_run, tmp_path):
    folder = make_run(planes=(HOSTILE, "brain", "femur", "heart", "cervix"))
    record = json.loads((folder / "results.json").read_text())
    record["experiment"] = record["data"] = record["git_commit"] = record["finished"] = HOSTILE
    record["command"] = [HOSTILE]
    record["details"]["student"]["planes"]["subgroups"] = {HOSTILE: {HOSTILE: {"count": 3}}}
    record["details"]["student"]["planes"]["samples"][0]["name"] = HOSTILE
    (folder / "results.json").write_text(json.dumps(record))
    (folder / "config.yaml").write_text(
        json.dumps({"model": {HOSTILE: HOSTILE}, "data": {"class_path": HOSTILE}})
    )
    text, outline, words = read(write_report([folder], tmp_path / "h.html"))
    assert "script" not in outline.tags
    assert "<script" not in text
    assert "onerror=alert(1)>" not in text
    assert 'alert("x")' in words  # shown, not run
    assert "Content-Security-Policy" in text


@pytest.mark.usefixtures("without_drawings")
def test_a_run_without_evidence_still_has_a_report_that_says_so(make_run, capsys):
    _, _, words = read(write_report([make_run(with_evidence=False)]))
    assert "Not drawn:" in words
    assert "no such checkpoint" in words
    assert "no embedding maps and no images" in capsys.readouterr().err


def test_an_evaluation_without_history_or_teacher(make_run):
    folder = make_run()
    (folder / "metrics.csv").unlink()
    (folder / "config.yaml").unlink()
    record = json.loads((folder / "results.json").read_text())
    del record["details"]["teacher"]
    record["metrics"] = {
        name: value for name, value in record["metrics"].items() if not name.startswith("teacher/")
    }
    (folder / "results.json").write_text(json.dumps(record))
    _, _, words = read(write_report([folder]))
    assert "without a training history" in words
    assert "No training here" in words


@pytest.mark.usefixtures("without_drawings")
def test_a_teacher_alone_is_no_student(make_run):
    folder = make_run("evaluate", "my-name")
    (folder / "metrics.csv").unlink()
    record = json.loads((folder / "results.json").read_text())
    del record["details"]["teacher"]
    record["details"]["student"]["hc18"]["subgroups"] = {
        "machine": {"Voluson": {"count": 3, "validity": 50.0}}
    }
    record["metrics"][final_name("student", "hc18", "black_image_validity")] = 1.0
    (folder / "results.json").write_text(json.dumps(record | {"scored": "teacher"}))
    _, _, words = read(write_report([folder]))
    own = words.partition("Scores on test patients")[0] + words.partition("Beside the scores")[2]
    assert "What the teacher reads" in own
    assert "teacher with part of its input" in own
    assert "by machine" in own
    assert "repulsion" not in own
    assert "student" not in own.partition("Settings")[0].lower()


VERDICTS = {"ok": "good", "FAILED": "bad", "NOT RUN": "", "DROPPED": ""}


@pytest.mark.usefixtures("without_drawings")
def test_export_and_latency_appear_and_every_verdict_has_its_colour(make_run):
    folder = make_run()
    rows = [{"variant": f"v{number}", "status": status} for number, status in enumerate(VERDICTS)]
    rows += [
        rows[1] | {"note": "erf", "points_lost": 3.25, "figures": {"cosine_min": 0.97, "flip_rate": 0.125}}
    ]
    times = {"p50_ms": 1.5, "p95_ms": 2.25, "ratio": {"median": 0.5}, "peak_mb": 120.0}
    backends = {"onnxruntime": times, "coreml": {"error": "no Mac"}}
    for name, content in (
        ("export/parity.json", {"rows": rows}),
        ("latency/latency.json", {"backends": backends, "reference": "torch-eager", "machine": {}}),
    ):
        (folder / name).parent.mkdir()
        (folder / name).write_text(json.dumps(content))
    text, _, words = read(write_report([folder]))
    for status, tone in VERDICTS.items():
        kind = f' class="{tone}"' if tone else ""
        assert f'<td data-name="verdict"{kind}>{status}<' in text
    for part in (
        "erf 0.970000 12.50% 3.25",
        "times torch-eager",
        "1.50 2.25 0.50 120",
        "no Mac",
    ):
        assert part in words, part


def luminance(colour):
    """Relative luminance of a colour as WCAG 2 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_tone_can_be_read_in_light_dark_and_print():
    style = (Path(tables.__file__).parent / "style.css").read_text()
    themes = [
        dict(re.findall(r"--([\w-]+): (#\w+);", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    light, dark, _ = themes  # print redefines the page and its ink alone
    assert {name: light[name] for name in PALETTE} == PALETTE, "the colours that themed_svg replaces"
    assert PALETTE.keys() <= dark.keys()
    for theme in (light, dark):
        for tone in filter(None, VERDICTS.values()):
            assert f"td.{tone} {{ color: var(--{tone});" in style
            lighter, darker = sorted((luminance(theme[tone]), luminance(theme["paper"])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (tone, theme[tone])
        assert theme["good"] != theme["bad"]


def test_an_unfinished_or_incomplete_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no results\.json"):
        read_run(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_run(tmp_path / "absent")
    (tmp_path / "results.json").write_text('{"experiment": "x"}')
    with pytest.raises(ValueError, match=r"results\.json: lacks \['data', 'metrics', 'details'\]; [^\n]+$"):
        read_run(tmp_path)


def finished(folder, when, **record):
    content = json.loads((folder / "results.json").read_text()) | {"finished": when} | record
    (folder / "results.json").write_text(json.dumps(content))
    return folder


@pytest.mark.usefixtures("without_drawings")
def test_a_run_alone_is_compared_with_the_newest_static_run_that_fits(make_run):
    run = make_run(skill=5.0)
    rival = {"skill": 0.6, "weights": (1, 1), "seed": 5, "with_evidence": False}
    finished(make_run("static-kd", run="old", **rival), "2026-01-01T00:00:00+00:00")
    finished(make_run("static-kd", run="new", **rival), "2026-01-03T00:00:00+00:00")
    finished(make_run("static-kd", run="other-seed", **rival), "2026-01-04T00:00:00+00:00", seed=1)
    finished(make_run("static-kd", run="other-data", **rival), "2026-01-05T00:00:00+00:00", data="hc18")
    other = make_run("static-kd", run="other-rate", **rival)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["learning_rate"] = 0.01
    (finished(other, "2026-01-06T00:00:00+00:00") / "config.yaml").write_text(yaml.safe_dump(config))
    other = make_run("static-kd", run="other-teacher", **rival)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["teacher"] = {
        "class_path": "models.from_checkpoint",
        "init_args": {"path": "another.ckpt"},
    }
    (finished(other, "2026-01-07T00:00:00+00:00") / "config.yaml").write_text(yaml.safe_dump(config))
    (make_run("static-kd", run="unfinished", **rival) / "results.json").unlink()
    (make_run("static-kd", run="damaged", **rival) / "results.json").write_text("{")
    page = write_report([run])
    assert page == run / "report.html"
    _, _, words = read(page)
    assert "Ahead with this seed; other seeds unknown" in words
    assert "static-kd/new" in words
    for other in ("old", "other-seed", "other-data", "other-rate", "other-teacher", "damaged"):
        assert f"static-kd/{other}" not in words
    assert not (run.parent.parent / "static-kd/new/report.html").exists()


@pytest.mark.usefixtures("without_drawings")
def test_scores_on_all_images_are_not_called_scores_on_test_patients(make_run, tmp_path):
    runs = [make_run(run=name, with_evidence=False) for name in ("tested", "all")]
    once, mixed = "test patients were scored once, after selection", "Scores on test patients or all images"
    _, _, words = read(write_report(runs, tmp_path / "tested.html"))
    assert once in words
    assert mixed not in words
    content = json.loads((runs[1] / "results.json").read_text())
    content["details"]["student"]["hc18"]["split"] = "all"  # not the first benchmark
    finished(runs[1], "2026-01-01T00:00:00+00:00", details=content["details"])
    _, _, words = read(write_report(runs, tmp_path / "mixed.html"))
    assert once not in words
    assert mixed in words
    assert "phantom, all and test split" in words


def test_the_command_names_files_from_the_working_directory(make_run, monkeypatch):
    here = Path.cwd()
    words = [
        "fit",
        f"--config={here}/experiments/recipes/srkd.yaml",
        f'--model.student={{"path": "{here}/a.ckpt"}}',
        "--x=/b",
    ]
    monkeypatch.setattr(process.sys, "argv", ["experiments", *words])
    said = ["fit", "--config=experiments/recipes/srkd.yaml", '--model.student={"path": "a.ckpt"}', "--x=/b"]
    assert process.arguments_here() == said
    run = finished(make_run(), "2026-01-01T00:00:00+00:00", command=process.arguments_here())
    monkeypatch.setattr(process.sys, "executable", f"{here}/.venv/bin/python")
    started = commands(read_run(run))["as it was started"]
    assert shlex.split(started) == [".venv/bin/python", "-m", "experiments", *said], "as in the documents"


def test_the_command_for_the_same_settings_needs_no_activated_environment(make_run):
    again = commands(read_run(make_run()))["the same settings"]
    module = [*shlex.split(again)[:3], "list"]
    done = subprocess.run(module, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=True)
    assert "srkd" in done.stdout


@pytest.mark.parametrize("model", ["export", "checkpoints/best.ckpt"])
def test_times_of_a_runs_model_are_kept_where_its_report_reads_them(make_run, model):
    run = make_run()
    (run / model).parent.mkdir(exist_ok=True)
    (run / model).mkdir() if model == "export" else (run / model).touch()
    folder = default_folder(str(run / model))
    folder.mkdir()
    (folder / "latency.json").write_text('{"backends": {}}')
    assert read_run(run).latency == {"backends": {}}


def test_times_of_other_models_go_to_a_folder_of_their_own(tmp_path):
    (tmp_path / "random-MobileCLIP2-S0/export").mkdir(parents=True)
    for model in ("random:MobileCLIP2-S0", "student.ckpt", str(tmp_path / "random-MobileCLIP2-S0/export")):
        assert default_folder(model) == DEFAULT_OUT
