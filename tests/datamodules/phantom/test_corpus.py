import hashlib
import json
import multiprocessing
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from datamodules.phantom import corpus, preview
from datamodules.phantom.corpus import PhantomSettings, make_corpus
from datamodules.phantom.geometry import ellipse_circumference
from datamodules.phantom.patients import Picture
from datamodules.phantom.preview import write_preview
from datamodules.phantom.renderer import Truth
from experiments.commands.data import main

SMALL = PhantomSettings(seed=1, num_planes_images=10, num_hc18_images=4, num_pair_images=4, further_tests=0.0)


def checksums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def blank(picture: Picture, seed: int) -> tuple[np.ndarray, Truth]:
    """An image that costs nothing, where drawing is not the point."""
    return np.zeros((4, 4), np.uint8), Truth(0.1, 140, 180.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(SMALL, tmp_path_factory.mktemp("phantom"), workers=1)


def test_official_layout_of_fetal_planes(made: Path) -> None:
    lines = (made / "FETAL_PLANES_DB" / "FETAL_PLANES_DB_data.csv").read_text().splitlines()
    assert lines[0] == "Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "
    assert len(lines) == 11
    words = {"Fetal brain", "Fetal thorax", "Maternal cervix", "Fetal femur", "Fetal abdomen", "Other"}
    for line in lines[1:]:
        name, patient, plane, brain_plane, _, _, train = line.split(";")
        assert name.startswith(f"Patient{int(patient):05d}_Plane")
        assert plane in words
        assert (brain_plane == "Not A Brain") == (plane != "Fetal brain")
        assert train.endswith(" ")
        assert train.strip() in {"0", "1"}
        image = cv2.imread(str(made / "FETAL_PLANES_DB" / "Images" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert image.ndim == 2, "greyscale"


def test_official_layout_of_hc18(made: Path) -> None:
    lines = (made / "HC18" / "training_set_pixel_size_and_HC.csv").read_text().splitlines()
    assert lines[0] == "filename,pixel size(mm),head circumference (mm)"
    assert len(lines) == 5
    assert lines[1].startswith("001_HC.png,")
    names = [line.split(",")[0] for line in lines[1:]]
    assert sorted(names) == sorted(path.name for path in (made / "HC18" / "training_set").iterdir())


def test_truth_table_states_the_skull_that_the_official_table_measures(made: Path) -> None:
    truth = pd.read_csv(made / "truth.csv")
    assert len(truth) == 18
    heads = truth[truth.corpus == "hc18"].reset_index(drop=True)
    official = pd.read_csv(made / "HC18" / "training_set_pixel_size_and_HC.csv")
    for row, line in zip(heads.itertuples(), official.itertuples(index=False), strict=True):
        pixels = ellipse_circumference(row.skull_a_px, row.skull_b_px)
        assert pixels * line[1] == pytest.approx(line[2], rel=1e-4)
    assert truth[truth.plane != "brain"].hc_mm.isna().all()


def test_pairs_state_an_age_only_where_a_head_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(picture: Picture, _: int) -> tuple[np.ndarray, Truth]:
        return np.zeros((4, 4), np.uint8), Truth(0.1, 140, 180.0 if picture.plane == "brain" else None)

    monkeypatch.setattr(corpus, "render", render)
    made = make_corpus(PhantomSettings(1, 0, 0, 30), tmp_path, workers=1)
    with tarfile.open(made / "pairs" / "pairs-000000.tar") as shard:
        facts = [json.load(shard.extractfile(name)) for name in shard.getnames() if name.endswith(".json")]
    assert len(facts) == 30
    ages = {(fact["plane"] == "brain", fact["ga_days"], fact["hc_mm"]) for fact in facts}
    assert ages == {(True, 140, 180.0), (False, None, None)}


def test_settings_and_simulator_version_name_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SMALL.digest == PhantomSettings(1, 10, 4, 4, further_tests=0.0).digest
    assert SMALL.digest != PhantomSettings(2, 10, 4, 4, further_tests=0.0).digest
    before = SMALL.digest
    monkeypatch.setattr(corpus, "SIMULATOR_VERSION", corpus.SIMULATOR_VERSION + 1)
    assert SMALL.digest != before


def test_an_interrupted_run_leaves_no_corpus_and_abandoned_folders_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    def failing(picture, seed):
        drawn.append(picture.index)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return blank(picture, seed)

    monkeypatch.setattr(corpus, "render", failing)
    with pytest.raises(KeyboardInterrupt):
        make_corpus(SMALL, tmp_path, workers=1)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(corpus, "render", lambda *_: os._exit(9))
    killed = multiprocessing.get_context("fork").Process(target=make_corpus, args=(SMALL, tmp_path, 1))
    killed.start()
    killed.join()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] not in ([], [SMALL.digest])
    monkeypatch.setattr(corpus, "render", blank)
    make_corpus(SMALL, tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [SMALL.digest]


def test_pictures_do_not_depend_on_the_number_of_processes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "IN_PROCESS", 0)
    parallel = make_corpus(SMALL, tmp_path, workers=2)
    assert parallel.name == made.name
    assert checksums(parallel) == checksums(made)


def test_concurrent_requests_draw_the_corpus_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []

    def counting(picture, seed):
        drawn.append(f"{picture.corpus}/{picture.index}")
        return blank(picture, seed)

    monkeypatch.setattr(corpus, "render", counting)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: make_corpus(SMALL, tmp_path, workers=1), range(2)))
    assert folders == [tmp_path / SMALL.digest] * 2
    assert len(drawn) == len(set(drawn)) == 18, "nothing was drawn twice"
    assert checksums(folders[0]).keys() == checksums(made).keys()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_hc18_images": -1}, "num_hc18_images must be at least 0, not -1"),
        ({"planes_images_per_patient": 0.5}, "planes_images_per_patient must be at least 1, not 0.5"),
        ({"test_share": 1.0}, r"test_share must lie in \[0, 1\), not 1.0"),
    ],
)
def test_invalid_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhantomSettings(**wrong)


def test_command_line(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sizes = "--seed=1 --num-planes-images=10 --num-hc18-images=4 --num-pair-images=4 --further-tests=0"
    assert main(["phantom", f"--root={made.parent}", *sizes.split()]) == 0
    assert capsys.readouterr().out.strip() == str(made)
    assert json.loads((made / "settings.json").read_text())["num_hc18_images"] == 4
    with pytest.raises(ValueError, match="phantom: seed must be at least 0, not -1"):
        main(["phantom", f"--root={made.parent}", "--seed=-1"])


def test_the_preview_is_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write_preview(tmp_path / "sheet.png", seed=0)
    assert out.stat().st_size <= 200_000
    sheet = cv2.imread(str(out), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape[1] > sheet.shape[0] / 2
    monkeypatch.setattr(preview, "render", blank)
    with pytest.raises(OSError, match="does its folder exist"):
        write_preview(tmp_path / "absent" / "sheet.png", seed=0)
