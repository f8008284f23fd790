"""The table and the pictures of `make predict`, and what a user's mistakes are answered with."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image

from datamodules.pairs.image_reading import read_image
from experiments.__main__ import run
from experiments.commands.predict import columns, lines_of
from models import load_student

SIZES = {"a.png": (60, 44), "sub/b.png": (44, 60), "c.png": (50, 50)}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 255, (height, width), dtype=np.uint8))
        image.save(tmp_path / "scans" / name)
    return tmp_path / "scans"


def test_table_pictures_and_embeddings_of_a_folder(student_checkpoint, folder, tmp_path, capsys):
    (folder / "broken.png").write_text("no image")
    out = tmp_path / "out"
    options = [
        f"--out={out}",
        "--pixel_size=0.2",
        "--ages=all",
        "--annotate",
        "--saliency",
        "--embeddings=npz",
    ]
    assert run(["predict", str(student_checkpoint), str(folder), *options]) == 1
    said = capsys.readouterr()
    assert "broken.png: cannot be read" in said.err
    assert "not calibrated" in said.out
    with (out / "predictions.csv").open() as stream:
        rows = {row["image"]: row for row in csv.DictReader(stream)}
    assert list(rows) == sorted([*SIZES, "broken.png"])
    assert rows["broken.png"]["plane"] == ""
    student, names = load_student(student_checkpoint), sorted(SIZES)
    images = [read_image(folder / name) for name in names]
    ages = student.gestational_age(images, 0.2)
    for name, planes, age in zip(names, student.planes(images), ages, strict=True):
        assert rows[name]["plane"] == planes["plane"]
        assert float(rows[name]["plane_probability"]) == pytest.approx(planes["plane_probability"], rel=1e-4)
        assert rows[name]["ga_days"] == str(age["ga_days"])
        width, height = Image.open(out / "annotated" / name).size
        assert width == SIZES[name][0]
        assert height > SIZES[name][1]  # the answers stand below the image
        kept = np.asarray(Image.open(out / "annotated" / name))[: SIZES[name][1]]
        np.testing.assert_array_equal(kept, np.repeat(read_image(folder / name)[:, :, None], 3, axis=2))
        assert (out / "saliency" / name).is_file()
    table = pd.read_parquet(out / "predictions.parquet").set_index("image")
    assert list(table.index) == list(rows)
    assert table.loc["a.png", "ga_days"] == int(rows["a.png"]["ga_days"])
    kept = np.load(out / "embeddings.npz")
    assert list(kept["image"]) == names
    np.testing.assert_allclose(kept["embedding"], student.embed(images), atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "out"}
    # Again, into the same folder: the older predictions are replaced.
    (folder / "broken.png").unlink()
    assert run(["predict", str(student_checkpoint), str(folder / "a.png"), f"--out={out}"]) == 0
    assert [path.name for path in sorted(out.iterdir())] == ["predictions.csv", "predictions.parquet"]


def test_a_heat_map_that_is_zero_everywhere_says_so(student_checkpoint, folder, tmp_path, monkeypatch):
    heights = []
    for heat in (torch.ones, torch.zeros):
        monkeypatch.setattr(
            "models.student.checkpoint.grad_cam", lambda _, x, __, heat=heat: heat(len(x), 8, 8)
        )
        out = tmp_path / heat.__name__
        assert (
            run(["predict", str(student_checkpoint), str(folder / "c.png"), f"--out={out}", "--saliency"])
            == 0
        )
        heights.append(Image.open(out / "saliency" / "c.png").height)
    assert heights[1] > heights[0], "a line more below the picture"


def test_a_table_gives_each_image_its_own_pixel_size(student_checkpoint, folder, tmp_path):
    (folder / "list.csv").write_text("file_name;pixel_size_mm\nc.png;0.1\nsub/b.png;\n")
    out = tmp_path / "out"
    run(
        [
            "predict",
            str(student_checkpoint),
            str(folder / "list.csv"),
            f"--out={out}",
            "--pixel_size=0.3",
            "--ages=all",
        ]
    )
    table = pd.read_csv(out / "predictions.csv").set_index("image")
    assert table["ga_spacing_mm"].round(2).to_dict() == {"c.png": 0.12, "sub/b.png": 0.45}


def test_a_table_with_absolute_paths_and_columns_of_its_own(student_checkpoint, folder, tmp_path):
    for part, name in (("1", "a.png"), ("2", "c.png")):
        (folder / part).mkdir()
        (folder / name).rename(folder / part / "a.png")
    names = [str(folder / part / "a.png") for part in "12"]
    (tmp_path / "list.csv").write_text("Bild\n" + "\n".join(names) + "\n")
    arguments = [
        str(student_checkpoint),
        str(tmp_path / "list.csv"),
        "--column=image=Bild",
        f"--images={folder}",
    ]
    assert run(["predict", *arguments, f"--out={tmp_path / 'out'}", "--annotate"]) == 0
    assert list(pd.read_csv(tmp_path / "out" / "predictions.csv")["image"]) == names
    widths = sorted(Image.open(path).width for path in (tmp_path / "out" / "annotated").rglob("*.png"))
    assert widths == [50, 60]


def test_tables_of_two_folders_have_their_own_predictions(
    student_checkpoint, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (1, 1)).save(folder / "dot.png")
    seen = set()
    for name in ("first/scan", "second/scan"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "table.csv").write_text("image,pixel_size_mm\ndot.png,0.1\n")
        given = [str(student_checkpoint), f"{name}/table.csv", "--images=scans", "--ages=all", "--outside"]
        assert run(["predict", *given]) == 0
        (new,) = set(Path("outputs/predictions").iterdir()) - seen
        seen.add(new)
        assert re.fullmatch("scan-table-[0-9a-f]{6}", new.name)
        assert pd.read_csv(new / "predictions.csv")["ga_days"].isna().all()
        assert "1 image without an age: pixels of the model's input would be below" in capsys.readouterr().out


def test_a_benchmark_of_ones_own_is_a_column_of_text(student_checkpoint):
    student = load_student(student_checkpoint)
    student.classes = {"clinic_days": (["spine", "hand"], next(iter(student.classes.values()))[1][:2])}
    rows = student.classify(np.zeros((1, student.dimension), np.float32))
    (row,) = pa.Table.from_pylist(rows, columns(student)).to_pylist()
    assert row["clinic_days"] == "spine"
    assert row["clinic_days_hand"] == pytest.approx(0.5)
    assert lines_of(row) == ["clinic_days: spine (50%)"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["student", "nowhere"], "nowhere: no such"),
        (["nothing.ckpt", "scans"], "nothing.ckpt: no such file"),
        (["student", "scans", "--pixel_size=-1"], "expected millimetres, from 0.02 to 2"),
        (["student", "scans", "--pixel_size=20"], "expected millimetres, from 0.02 to 2"),
        (["student", "one", "--outside"], "one image; --images, --column and --outside are for tables"),
        (["student", "scans", "--out=full"], "something other than predictions"),
        (["scans", "scans"], "neither a checkpoint nor an export"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    student_checkpoint, folder, tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    places = {"student": str(student_checkpoint), "one": str(folder / next(iter(SIZES)))}
    given = [places.get(word, word) for word in arguments]
    with pytest.raises((ValueError, OSError), match=words) as refusal:
        run(["predict", *given])
    assert "\n" not in str(refusal.value)
    assert {path.name for path in tmp_path.iterdir()} == {"scans", "full"}


def test_the_lines_of_the_guide(student_checkpoint, folder):
    guide = (Path(__file__).resolve().parents[3] / "docs" / "predict.md").read_text()
    (code,) = re.findall(r"<!-- tested -->\n```python\n(.*?)```", guide, flags=re.DOTALL)
    names = {"CKPT": student_checkpoint, "images": [read_image(folder / name) for name in SIZES]}
    exec(code, names)
    assert all(row["plane_probability"] == row[f"plane_{row['plane']}"] for row in names["planes"])
    assert all(14 * 7 <= row["ga_days"] < 39 * 7 for row in names["ages"])
    np.testing.assert_allclose(np.linalg.norm(names["embeddings"], axis=1), 1, atol=1e-5)


def test_a_name_that_a_spreadsheet_would_compute_is_text_in_the_csv(student_checkpoint, tmp_path):
    (tmp_path / "scans").mkdir()
    Image.new("L", (40, 40)).save(tmp_path / "scans" / "=1+1.png")
    assert (
        run(["predict", str(student_checkpoint), str(tmp_path / "scans"), f"--out={tmp_path / 'out'}"]) == 0
    )
    assert pd.read_csv(tmp_path / "out" / "predictions.csv")["image"].tolist() == ["'=1+1.png"]
    assert pd.read_parquet(tmp_path / "out" / "predictions.parquet")["image"].tolist() == ["=1+1.png"]
