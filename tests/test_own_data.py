"""The way of docs/own-data.md: from a hospital's archive to a student, its answers and its export; and its mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.__main__ import run
from export import read_export
from tests.conftest import write_image
from tests.dicom_archive import SECRETS, planted, texts_in, write_archive

ROOT = Path(__file__).resolve().parent.parent
PLANES = ("brain", "abdomen", "heart", "femur", "cervix")


def command(place, *words, code=0, **environment):
    """Run a command of the page in a folder, and return what it printed."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    own |= {
        "PYTHONPATH": str(ROOT),
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
        **SECRETS,
        **environment,
    }
    own |= {name: str(place / "home") for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *map(str, words)],
        cwd=place, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    print(f"{time.monotonic() - start:.0f} s: {' '.join(map(str, words))}")
    assert done.returncode == code, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_from_an_archive_to_an_export(tmp_path_factory):
    archive = tmp_path_factory.mktemp("archive") / "Planted_Hospital"
    place = tmp_path_factory.mktemp("work")
    (place / "home").mkdir()
    truth = write_archive(archive, patients=60, frames=2, corpus="planes")
    truth["caption"] = [f"Ultrasound image of a fetal {row.plane}." for row in truth.itertuples()]
    labels = archive.parent / "labels.csv"
    truth[["file", "plane", "brain_plane", "hc_mm", "caption"]].to_csv(labels, index=False)
    (archive / "Planted001_broken.dcm").write_bytes((archive / truth["file"][0]).read_bytes()[:4000])
    printed = []

    said = command(place, "data", "ingest", archive, "clinic", f"--labels={labels}")
    printed.append(said)
    table = pd.read_csv(place / "clinic" / "table.csv")
    assert 0.8 * len(truth) < len(table) <= len(truth), "all but a few false alarms of text beside the sector"
    assert f"from {len(table)} of {len(truth) + 1} files" in said
    assert table["patient"].nunique() > 50
    assert said.count("bad file ") == 1

    said = command(place, "data", "check", "table", "clinic/table.csv", "--sheet=sheet.png")
    printed.append(said)
    assert "error" not in said
    assert (place / "sheet.png").is_file()

    prompts = {plane: [f"Ultrasound image of a fetal {plane}.", f"a fetal {plane}"] for plane in PLANES}
    (place / "prompts.json").write_text(json.dumps(prompts))
    (place / "clinic.yaml").write_text(
        "data:\n  init_args:\n    benchmarks:\n"
        "      - {name: clinic, label: plane, prompts: prompts.json, weight: 5, exclude: [other]}\n"
        "      - {name: heads, kind: biometry, table: clinic/table.csv}\n"
    )
    said = command(
        place, "prompts", "check", "prompts.json", "--table=clinic/table.csv", "--label=plane", code=1
    )
    printed.append(said)
    assert "other" in said, "the label without prompts"
    said = command(
        place, "train", "srkd", "table-small", "--config=clinic.yaml", "--run=first", "--trainer.max_epochs=2",
        "--trainer.check_val_every_n_epoch=1", "--data.batch_size=16", "--data.num_workers=0",
        TABLE="clinic/table.csv",
    )  # fmt: skip
    printed.append(said)
    folder = place / "outputs" / "srkd" / "first"
    record = json.loads((folder / "results.json").read_text())
    for key in ("student/clinic/f1", "student/heads/validity", "teacher/clinic/f1"):
        assert np.isfinite(record["metrics"][key]), key
    page = (folder / "report.html").read_text()
    assert "clinic F1" in page
    assert "heads validity" in page
    assert said.count("was trained on simulated images only") == 2, "the teacher; before and after"
    assert "where they share patients" not in said
    checkpoint = folder / "checkpoints" / "best.ckpt"
    said = command(place, "predict", checkpoint, "clinic/table.csv", "--annotate", "--ages=all")
    printed.append(said)
    (predicted,) = (place / "outputs" / "predictions").glob("clinic-table-*/predictions.csv")
    answers = pd.read_csv(predicted)
    assert list(answers["image"]) == list(table["image"])
    assert answers["ga_days"].notna().any()
    said = command(
        place, "export", checkpoint, "--skip=coreml,int8", "--frames=12", "--data.num_workers=0",
        TABLE="clinic/table.csv",
    )  # fmt: skip
    printed.append(said)
    head = read_export(folder / "export").head("clinic")
    assert len(head.vectors) == len(PLANES)
    assert all(plane in str(head.description) for plane in PLANES)

    secrets = {text.lower() for text in planted(truth)} | {"planted"}
    # Names and headers alone: the pixels are most of an archive.
    headers = (
        f"{path.relative_to(archive)} {path.read_bytes()[:8000].decode('latin-1')}"
        for path in archive.rglob("*.dcm")
    )
    source = "".join(headers).lower()
    assert all(text in source for text in secrets), "the search finds what is there"
    secrets |= {secret.lower() for secret in SECRETS.values()}
    for where, text in [("printed", "\n".join(printed).replace(str(archive.parent), "")), *texts_in(place)]:
        lower = text.lower()
        assert not [word for word in secrets if word in lower], where


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A folder with a table of six images, the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    rows = []
    for number in range(6):
        write_image(tmp_path / f"{number}.png", number)
        rows.append({
            "image": f"{number}.png", "patient": f"p{number}", "split": ("train", "val", "test")[number % 3],
            "plane": ("brain", "femur")[number // 3], "pixel_size_mm": "0.2", "caption": "a fetal head",
        })  # fmt: skip
    return pd.DataFrame(rows)


def mistake(change, *options):
    """Return the one line on which a training with a changed table ends."""
    change.to_csv("table.csv", index=False)
    with pytest.raises((ValueError, OSError, SystemExit)) as refusal:
        run(["train", "no-kd", "table-small", "--data.num_workers=0", "--model.teacher=null", "--run=refused",
             "--data.table=table.csv", "--data.batch_size=2", *options])  # fmt: skip
    assert not Path("outputs/no-kd/refused").exists()
    said = getattr(refusal.value, "message", None) or str(refusal.value)
    assert "\n" not in said
    return said


def test_a_wrong_column_and_a_label_without_prompts_end_a_training_before_its_folder(table):
    said = mistake(table.rename(columns={"image": "bild"}))
    assert "no column of images" in said
    assert "it has bild, patient" in said
    Path("prompts.json").write_text(json.dumps({"brain": ["a head"], "abdomen": ["a belly"]}))
    own = '--data.benchmarks=[{"name": "clinic", "label": "plane", "prompts": "prompts.json"}]'
    said = mistake(table, own)
    assert "benchmark clinic: the prompt file has no prompts for ['femur'], labels of the images" in said
