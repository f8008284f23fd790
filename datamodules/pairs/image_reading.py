"""Decode one image file of any common kind to 8-bit grayscale or RGB."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
# Pillow goes by content: for an EPS file named x.png it would start Ghostscript, an interpreter.
IMAGE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")

MEGAPIXELS = "SONODISTILL_MAX_MEGAPIXELS"
"""Environment variable: largest image that is decoded, in millions of pixels (`DEFAULT_MEGAPIXELS`)."""
DEFAULT_MEGAPIXELS = 50.0  # a file of 160 kB can hold 169 of them

# Our limit is lower. Not around each image: that would make Python repeat every other warning, too.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

_GRAY_MODES = ("1", "L", "LA")
_SIXTEEN_BIT_TO_EIGHT = 257  # 65535 / 255


def open_image(source: Path | str | IO[bytes]) -> Image.Image:
    """Open an image with Pillow; only content of `IMAGE_FORMATS` is accepted, whatever the file name.

    Raises:
        ValueError: The image is larger than `MEGAPIXELS` allows; nothing has been decoded.
    """
    image = Image.open(source, formats=IMAGE_FORMATS)
    found, most = image.width * image.height / 1e6, float(os.environ.get(MEGAPIXELS, DEFAULT_MEGAPIXELS))
    if found > most:
        image.close()
        raise ValueError(
            f"{found:.0f} megapixels, at most {most:g} are decoded; {MEGAPIXELS}={found + 1:.0f} allows it"
        )
    return image


def read_image(source: Path | bytes, name: str | None = None) -> np.ndarray:
    """Decode an image with Pillow, upright as browsers and image viewers show it (EXIF orientation).

    Alpha is dropped, as by Pillow's ``convert("RGB")``; 16-bit grayscale maps 0-65535 to 0-255, also when an image uses
    few of these values: its brightness must not depend on its brightest pixel.

    Args:
        source: The file, or its bytes.
        name: Name for messages; the path by default.

    Returns:
        uint8 [H, W] for grayscale sources and [H, W, 3] (RGB) for all others.

    Raises:
        ValueError: The content is not a readable image, or a TIFF of several pages; the message names the file.
    """
    label = name if name is not None or isinstance(source, bytes) else str(source)
    with _named(label), open_image(_in_memory(source)) as image:
        if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"{pages} pages; save each as a file of its own")
        if "exif" in image.info:  # Pillow turns a TIFF by itself
            image.load()
            # Pillow's parser raises many kinds for damaged EXIF; the pixels are whole.
            with suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
        return _to_eight_bit(image)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) as stored, from the header, without decoding the pixels; the errors of `read_image`."""
    with _named(str(path)), open_image(path) as image:
        return image.size


def _in_memory(source: Path | bytes) -> io.BytesIO:
    """Return a file's content: Pillow 13.0 maps an uncompressed gray TIFF from disk, and turns it wrongly."""
    return io.BytesIO(source if isinstance(source, bytes) else source.read_bytes())


@contextmanager
def _named(label: str | None) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{label}: no such image file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = f"its content is none of {', '.join(IMAGE_FORMATS)}" if unknown else error
        raise ValueError(f"{label}: cannot be read as an image ({reason})") from None


def _to_eight_bit(image: Image.Image) -> np.ndarray:
    if image.mode in _GRAY_MODES:
        return np.array(image.convert("L"))
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError("32-bit values beyond the 16-bit range")
        return np.round(wide / _SIXTEEN_BIT_TO_EIGHT).astype(np.uint8)
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it as 8 or 16 bit")
    return np.array(image.convert("RGB"))
