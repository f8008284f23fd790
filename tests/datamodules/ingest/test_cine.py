"""Cine loops in MP4 and AVI files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from datamodules.ingest.scans import NO_REGION, ScanError, read_cine


@pytest.mark.parametrize(("suffix", "code"), [(".avi", "MJPG"), (".mp4", "mp4v")])
def test_a_cine_loop_is_played_to_the_chosen_frames(tmp_path, suffix, code):
    path = tmp_path / f"cine{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (96, 64))
    for level in (10, 60, 110, 160, 210):
        frame = np.full((64, 96, 3), level, np.uint8)
        frame[:20] = 0
        writer.write(frame)
    writer.release()
    scan = read_cine(path, "every:2", region=(16, 20, 96, 64))
    frames = list(scan.frames)
    assert [frame.number for frame in frames] == [1, 3, 5]
    assert scan.pixel_size_mm is None
    for frame, level in zip(frames, (10, 110, 210), strict=True):
        assert frame.picture.shape == (44, 80)
        assert abs(float(frame.picture[8:].mean()) - level) < 6  # lossy
    assert read_cine(path).flags == {NO_REGION}


def test_oblong_pixels_of_a_video_become_square(tmp_path):
    path = tmp_path / "pal.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (96, 64))
    for level in range(6):
        writer.write(np.full((64, 96, 3), 40 * level, np.uint8))
    writer.release()
    content = bytearray(path.read_bytes())
    # Four bits of MPEG-4's header (ISO 14496-2, 6.2.3) hold the pixel's shape: 0001 is 1:1, 0100 is 16:11.
    at = content.index(b"\x00\x00\x01\x20") + 6
    assert content[at] >> 3 & 0b1111 == 1
    content[at] ^= 0b0101 << 3
    path.write_bytes(content)
    assert [frame.picture.shape for frame in read_cine(str(path)).frames] == [(64, round(96 * 16 / 11))]


def test_a_broken_cine_loop_is_an_error_without_its_name(tmp_path, capfd):
    path = tmp_path / "Planted_Jane.mp4"
    path.write_bytes(b"not a film")
    with pytest.raises(ScanError, match="cannot be decoded"):
        read_cine(path)
    assert capfd.readouterr() == ("", "")
