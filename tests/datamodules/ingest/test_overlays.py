"""Sector, text and callipers: against pictures whose overlays are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from datamodules.ingest.overlays import find_markers, find_sector, find_text, mask_overlays
from datamodules.pairs.transforms import Augmentation, TwoViewTransform
from datamodules.phantom.datamodule import PhantomDataModule
from models import Preprocessing
from tests.dicom_archive import write

HEIGHT, WIDTH = 300, 400


def fan(seed=0):
    """Return smooth speckle in a fan, black around it, and where the fan is."""
    noise = np.random.default_rng(seed).normal(90, 45, (HEIGHT, WIDTH)).astype(np.float32)
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(inside, (200, 10), (270, 270), 0, 50, 130, 1, -1)
    picture = np.clip(cv2.GaussianBlur(noise, (0, 0), 2.5), 20, 140).astype(np.uint8) * inside
    return picture, inside.astype(bool)


def test_the_sector_is_the_fan():
    picture, inside = fan()
    sector = find_sector(picture)
    assert (sector & inside).sum() >= 0.99 * inside.sum()
    around = cv2.dilate(inside.astype(np.uint8), np.ones((21, 21))).astype(bool)
    assert not (sector & ~around).any()


def test_a_black_picture_has_no_sector_and_stays_as_it_is():
    black = np.zeros((60, 80), np.uint8)
    assert not find_sector(black).any()
    np.testing.assert_array_equal(mask_overlays(black), black)


@pytest.mark.parametrize("text", ["DOE^JANE", "12.04.1991", "MRN 77123", "Ana"])
@pytest.mark.parametrize("where", [(4, 20), (4, 290), (320, 20)])
def test_text_beside_the_sector_is_found(text, where):
    picture, _ = fan()
    write(picture, text, where)
    assert find_text(picture, find_sector(picture))
    assert find_text(np.repeat(picture[:, :, None], 3, axis=2), find_sector(picture))


def test_a_ruler_a_grey_bar_and_a_short_scale_are_no_text():
    picture, _ = fan()
    assert not find_text(picture, find_sector(picture))
    for y in range(10, HEIGHT, 20):
        picture[y, -8:] = 200
    picture[20:120, 4:8] = np.linspace(255, 0, 100, dtype=np.uint8)[:, None]
    write(picture, "5", (375, 100))
    write(picture, "10", (372, 200))
    assert not find_text(picture, find_sector(picture))


def test_letters_that_touch_are_text():
    picture, _ = fan()
    letters = np.zeros_like(picture)
    write(letters, "JANE", (10, 30))
    letters = cv2.dilate(letters, np.ones((1, 5), np.uint8))
    assert cv2.connectedComponents((letters > 40).astype(np.uint8))[0] == 2, "ground and one word"
    assert find_text(np.maximum(picture, letters), find_sector(picture))


def test_upright_ticks_of_a_ruler_below_the_sector_are_no_text():
    picture, _ = fan()
    picture[-12:-2, 20:380:10] = 200
    assert not find_text(picture, find_sector(picture))


def test_overlays_are_masked_and_tissue_stays():
    clean, inside = fan()
    picture = clean.copy()
    write(picture, "DOE^JANE", (4, 20))
    picture[100:200, 2:5] = 255
    inner = np.zeros_like(inside)
    for centre, marker in (((160, 150), cv2.MARKER_CROSS), ((250, 200), cv2.MARKER_TILTED_CROSS)):
        cv2.drawMarker(picture, centre, 230, marker, 10, 1)
        inner[centre[1] - 7 : centre[1] + 8, centre[0] - 7 : centre[0] + 8] = True
    masked = mask_overlays(picture)
    assert masked[~cv2.dilate(inside.astype(np.uint8), np.ones((25, 25))).astype(bool)].max() == 0
    added = inner & (picture.astype(int) - clean > 60)
    assert added.sum() > 20, "the crosses are there"
    assert (masked.astype(int) - clean)[added].max() < 60, "and are gone"
    kept = inside & ~inner
    assert (masked == clean)[kept].mean() > 0.98


def test_coloured_lines_go_and_colour_doppler_stays():
    gray, _ = fan()
    picture = np.repeat(gray[:, :, None], 3, axis=2)
    cv2.line(picture, (150, 150), (220, 200), (255, 255, 0), 1)
    assert find_markers(picture)[175, 185]
    assert np.ptp(mask_overlays(picture), axis=2).max() <= 60
    doppler = np.repeat(gray[:, :, None], 3, axis=2)
    doppler[140:180, 170:230] = (220, 30, 20)
    assert not find_markers(doppler)[150:170, 180:220].any()
    np.testing.assert_array_equal(mask_overlays(doppler)[150:170, 180:220], doppler[150:170, 180:220])


def test_training_pictures_are_masked_only_when_asked():
    contract = Preprocessing(image_size=256, mean=(0.5,) * 3, std=(0.5,) * 3)
    picture, _ = fan()
    write(picture, "DOE^JANE", (4, 20))
    plain, masked = (
        TwoViewTransform(contract, None, Augmentation(mask_overlays=on)).prepare(picture)
        for on in (False, True)
    )
    assert plain[50:75, :25].max() > 100  # 50 rows are padding
    assert masked[50:75, :25].max() == 0
    with pytest.raises(ValueError, match="mask_overlays"):
        PhantomDataModule(mask_overlays=True, augmentation=None)
    assert PhantomDataModule(mask_overlays=True).augmentation.mask_overlays


@pytest.mark.parametrize("side", ["left", "right"])
def test_ticks_of_a_ruler_are_found_at_either_edge(side):
    picture = np.full((HEIGHT, WIDTH), 60, np.uint8)
    edge = slice(1, 7) if side == "left" else slice(WIDTH - 7, WIDTH - 1)
    picture[20:280:20, edge] = 255
    picture[20:280:20, 200:206] = 255  # in the middle it is no ruler
    found = find_markers(picture)
    assert found[20:280:20, edge].all()
    assert not found[:, 195:211].any()
