"""Images of all common kinds are decoded to 8 bits, others are rejected by name."""

import os

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from datamodules.pairs.image_reading import IMAGE_FORMATS, image_size, read_image
from tests.conftest import write_image

GRAY = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("gray.png", Image.fromarray(GRAY), GRAY),
        ("GRAY.PNG", Image.fromarray(GRAY), GRAY),
        ("wide.png", Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY),
        ("wide.tif", Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY),
        ("colour.png", Image.fromarray(GRAY).convert("RGB"), np.stack([GRAY] * 3, -1)),
        ("alpha.png", Image.fromarray(GRAY).convert("RGBA"), np.stack([GRAY] * 3, -1)),
        ("gray-alpha.png", Image.fromarray(GRAY).convert("LA"), GRAY),
        ("palette.png", Image.fromarray(GRAY).convert("P"), np.stack([GRAY] * 3, -1)),
        ("binary.png", Image.fromarray(GRAY > 100), ((GRAY > 100) * 255).astype(np.uint8)),
    ],
)
def test_every_kind_of_image_becomes_eight_bit(tmp_path, name, image, expected):
    image.save(tmp_path / name)
    decoded = read_image(tmp_path / name)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)
    np.testing.assert_array_equal(read_image((tmp_path / name).read_bytes()), expected)
    assert image_size(tmp_path / name) == (8, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_browsers_show_them(tmp_path, orientation):
    path, exif = tmp_path / "photo.webp", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GRAY).convert("RGB").save(path, lossless=True, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path), expected)
    assert max(image_size(path)) == max(expected.shape)
    Image.fromarray(GRAY).save(tmp_path / "scan.tif", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "scan.tif"), expected[:, :, 0])


def test_damaged_exif_leaves_an_image_as_it_is_stored(tmp_path):
    path = tmp_path / "photo.webp"
    Image.fromarray(GRAY).convert("RGB").save(path, lossless=True, exif=b"Exif\0\0damaged")
    assert read_image(path).shape == (6, 8, 3)
    assert image_size(path) == (8, 6)


def test_unreadable_images_name_the_file(tmp_path):
    write_image(tmp_path / "cut.png", 0)
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    for name in ("cut.png", "text.png", "empty.png"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as an image"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match="shard 3, key x: cannot be read"):
        read_image(content[:100], "shard 3, key x")
    with pytest.raises(FileNotFoundError, match=r"none.png: no such image"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize(
    "read", [read_image, image_size, lambda path: read_image(path.read_bytes(), str(path))]
)
def test_an_eps_file_named_png_starts_no_interpreter(tmp_path, monkeypatch, read):
    """Pillow goes by content and would run `gs` from the PATH."""
    canary, program, path = tmp_path / "canary", tmp_path / "gs", tmp_path / "x.png"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        read(path)
    assert not canary.exists()
    reason = "its content is none of PNG, JPEG, TIFF, BMP, WEBP"
    assert str(caught.value) == f"{path}: cannot be read as an image ({reason})"


@pytest.mark.parametrize("form", IMAGE_FORMATS)
def test_formats_are_recognised_by_content(tmp_path, form):
    path = tmp_path / "x.png"
    Image.new("L", (9, 7), 90).save(path, format=form)
    assert abs(int(read_image(path).mean()) - 90) <= 1
    assert image_size(path) == (9, 7)


def test_a_small_file_of_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (8000, 8000)).save(path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    allowed = r"64 megapixels, at most 50 are decoded; SONODISTILL_MAX_MEGAPIXELS=65 allows it"
    for read in (read_image, image_size, lambda file: read_image(file.read_bytes(), str(file))):
        with pytest.raises(ValueError, match=rf"bomb.png: cannot be read as an image \({allowed}\)"):
            read(path)
    monkeypatch.undo()
    monkeypatch.setenv("SONODISTILL_MAX_MEGAPIXELS", "65")
    assert read_image(path).shape == (8000, 8000)


def test_a_tiff_of_several_pages_is_an_error(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (10, 200)]
    pages[0].save(tmp_path / "one.tiff")
    assert read_image(tmp_path / "one.tiff").max() == 10
    pages[0].save(tmp_path / "loop.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"loop\.tiff: .*2 pages; save each as a file of its own"):
        read_image(tmp_path / "loop.tiff")
