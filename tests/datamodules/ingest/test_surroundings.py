"""Pictures whose sector has no black around it: nothing passes for free of text that was not searched."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from datamodules.ingest.archive import NO_SURROUNDINGS
from datamodules.ingest.overlays import find_sector, find_text, only_within
from tests.datamodules.ingest.test_archive import run
from tests.datamodules.ingest.test_overlays import fan
from tests.dicom_archive import file_of, write


def test_a_title_bar_is_no_part_of_the_sector():
    picture, inside = fan()
    bar = np.full((36, picture.shape[1]), 110, np.uint8)
    write(bar, "DOE^JANE", (6, 24))
    screen = np.vstack([bar, np.zeros((30, picture.shape[1]), np.uint8), picture])
    sector = find_sector(screen)
    assert find_text(screen, sector)
    assert only_within(screen, sector)[:36].max() == 0
    assert (sector[66:] & inside).sum() >= 0.99 * inside.sum()


def test_a_page_of_text_is_text():
    page = np.full((1400, 1400), 255, np.uint8)
    for y in range(20, 1400, 18):
        cv2.putText(page, "a line of a report " * 12, (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.35, 0, 1)
    assert find_text(page, np.zeros(page.shape, bool))


@pytest.mark.parametrize("burned_in", ["drop", "mask"])
@pytest.mark.parametrize("region", ["whole", "0,0,390,300"])
def test_a_picture_on_a_grey_background_is_kept_out(secret, tmp_path, capfd, burned_in, region):
    picture, _ = fan()
    picture[picture == 0] = 40
    write(picture, "DOE^JANE", (4, 20))
    (tmp_path / "source").mkdir()
    file_of(picture[None]).save_as(tmp_path / "source" / "a.dcm", enforce_file_format=True)
    options = secret, f"--region={region}"
    code, log = run(capfd, tmp_path / "source", tmp_path / "out", *options, f"--burned-in={burned_in}")
    assert code == 1
    assert f"kept out: 1 frame: {NO_SURROUNDINGS}" in log
    assert "--burned-in=keep" in log
    assert json.loads((tmp_path / "out" / "ingest.json").read_text())["images"] == 0
    run(capfd, tmp_path / "source", tmp_path / "kept", *options, "--burned-in=keep")
    assert len(pd.read_csv(tmp_path / "kept" / "table.csv")) == 1
