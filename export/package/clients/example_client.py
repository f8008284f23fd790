"""Reference client of an export folder: frame to classes and gestational age. Research software. Not a medical device.

Needs numpy and onnxruntime (Pillow to open a picture), and of the folder manifest.json, heads.safetensors and
image_encoder.onnx:

    python3 example_client.py golden/frame_0.png [pixel size in mm]
"""

import argparse
import hashlib
import io
import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime

BITS = 22  # of Pillow's fixed-point weights
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # an EPS would start an interpreter, whatever its name
SEAL = "manifest_sha256"
TOP = 15  # the age is the median of the TOP most similar ages


def kernel(x, bicubic):
    """Return Pillow's bicubic (a = -0.5) or bilinear kernel at distances x."""
    x = np.abs(x)
    if not bicubic:
        return np.clip(1 - x, 0, None)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def weights(size, side, bicubic):
    """Return the antialiased weights from `size` to `side` pixels as whole numbers, [side, size]."""
    scale = size / side
    stretch = max(scale, 1.0)
    reach = (2 if bicubic else 1) * stretch
    table = np.zeros((side, size))
    for row in range(side):
        centre = (row + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), size)
        own = kernel((np.arange(first, last) - centre + 0.5) / stretch, bicubic)
        own = own / own.sum() * 2**BITS
        table[row, first:last] = np.trunc(own + np.copysign(0.5, own))
    return table


def prepare(frame, side, bicubic):
    """Pad a uint8 frame [H, W, 3] to a black square and resize it as Pillow does: uint8 [S, S, 3]."""
    height, width = frame.shape[:2]
    longer = max(height, width)
    top, left = (longer - height) // 2, (longer - width) // 2
    image = np.zeros((longer, longer, 3))
    image[top : top + height, left : left + width] = frame
    table = weights(longer, side, bicubic)
    for axes in ("ij,hjc->hic", "ij,jwc->iwc"):  # along rows, then along columns
        sums = np.einsum(axes, table, image, optimize=True)
        image = np.clip(np.floor((sums + 2 ** (BITS - 1)) / 2**BITS), 0, 255)
    return image.astype(np.uint8)


def sealed(manifest):
    """Return the SHA-256 of a manifest's other keys, as JSON with sorted keys and without spaces."""
    others = {key: value for key, value in manifest.items() if key != SEAL}
    return hashlib.sha256(json.dumps(others, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def decode(path):
    """Read a picture: upright by its EXIF orientation, 16-bit gray divided by 257, otherwise 8-bit RGB."""
    from PIL import Image, ImageOps

    try:
        # From memory: of a file, Pillow 13.0 maps the pixels of a gray TIFF that is to be turned wrongly.
        image = Image.open(io.BytesIO(Path(path).read_bytes()), formats=FORMATS)
        if image.format == "TIFF" and image.n_frames > 1:
            raise ValueError(f"{image.n_frames} pages; save each as a file of its own")
        image.load()
        if "exif" in image.info:  # Pillow turns a TIFF by itself
            with suppress(Exception):  # damaged EXIF; the pixels are whole
                image = ImageOps.exif_transpose(image)
        if image.mode == "I" or image.mode.startswith("I;16"):
            wide = np.asarray(image).astype(np.int64)
            if wide.min() < 0 or wide.max() > 65535:
                raise ValueError("32-bit values beyond the 16-bit range")
            image = Image.fromarray(np.round(wide / 257).astype(np.uint8))
        if image.mode == "F":
            raise ValueError("floating-point pixels")
        return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {error}") from None


class Student:
    """The model of an export folder."""

    def __init__(self, folder):
        folder = Path(folder)
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if not isinstance(self.manifest, dict) or self.manifest.get(SEAL) != sealed(self.manifest):
            raise ValueError(f"{folder / 'manifest.json'}: edited after the export")
        contract = self.manifest["contract"]
        self.side = contract["input"]["shape"][3]
        self.bicubic = contract["preprocessing"]["interpolation"] == "bicubic"
        files = {name: folder / self.manifest["artifacts"][name]["file"] for name in ("onnx-fp32", "heads")}
        for name, path in files.items():
            if hashlib.sha256(path.read_bytes()).hexdigest() != self.manifest["artifacts"][name]["sha256"]:
                raise ValueError(f"{path}: not the file that the manifest describes")
        content = files["heads"].read_bytes()  # 8 bytes of header length, the header as JSON, the numbers
        start = 8 + int.from_bytes(content[:8], "little")
        self.tensors = {}
        for name, entry in json.loads(content[8:start]).items():
            if name != "__metadata__":
                begin, end = (start + place for place in entry["data_offsets"])
                kind = {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]
                self.tensors[name] = (
                    np.frombuffer(content[begin:end], kind).reshape(entry["shape"]).astype("f4")
                )
        self.session = onnxruntime.InferenceSession(
            str(files["onnx-fp32"]), providers=["CPUExecutionProvider"]
        )

    def embed(self, frame):
        """Embed a uint8 RGB frame [H, W, 3]: unit-length [D]."""
        planes = prepare(frame, self.side, self.bicubic).transpose(2, 0, 1)[None].astype(np.float32)
        return self.session.run(None, {self.manifest["contract"]["input"]["name"]: planes})[0][0]

    def classify(self, embedding, name):
        """Return the probability of each label of a head, or None for "none of these"."""
        head = self.manifest["heads"][name]
        logits = head["cosine_scale"] * self.tensors[name] @ embedding
        lowest = (self.manifest.get("answers") or {}).get("none_below", {}).get(name)
        if lowest is not None and logits.max() - logits.mean() < lowest:
            return None
        odds = np.exp(logits - logits.max())
        return dict(zip(head["labels"], (odds / odds.sum()).tolist()))

    def age(self, embedding, spacing):
        """Return (days, youngest, oldest) of a fetal head; the spacing is that of the model's input, in mm."""
        ages, printed = self.manifest["heads"].get("ages"), f"{spacing:.2f}"
        if ages is None:
            raise ValueError("the export has no age table")
        if printed not in ages["spacings_mm_per_px"]:
            raise ValueError(f"pixel spacing {printed} mm is not in the export's age table")
        row = self.tensors["ages"][ages["spacings_mm_per_px"].index(printed)]
        similarity = ages["cosine_scale"] * row @ (self.tensors["ages_basis"] @ embedding)
        best = np.sort(np.argsort(-similarity, kind="stable")[:TOP])
        days, first = ages["ages_days"][0] + int(best[TOP // 2]), ages["ages_days"][0]
        drop = (self.manifest.get("answers") or {}).get("age_drop")
        if drop is None:
            return days, None, None
        near = first + np.flatnonzero(similarity >= similarity.max() - drop)
        return days, min(int(near[0]), days), max(int(near[-1]), days)

    def read(self, frame, pixel_size_mm=None, every=False):
        """Return the answers about one frame: of a brain plane also the sub-plane and, with a pixel size, the age.

        With `every`, other planes have both, too. `no_age` says why an age cannot be given.
        """
        embedding = self.embed(frame)
        heads = [name for name, head in self.manifest["heads"].items() if head["kind"] == "classes"]
        answer = {name: self.classify(embedding, name) for name in heads}
        planes = answer.get("planes", {"brain": 1.0})
        brain = every or (planes is not None and max(planes, key=planes.get) == "brain")
        if not brain:
            answer.pop("subplanes", None)
        elif pixel_size_mm is not None:
            try:
                answer["age"] = self.age(embedding, max(frame.shape[:2]) / self.side * pixel_size_mm)
            except ValueError as error:
                answer["no_age"] = str(error)
        return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture")
    parser.add_argument("pixel_size_mm", nargs="?", type=float)
    asked = parser.parse_args()
    try:
        answers = Student(Path(__file__).resolve().parent).read(decode(asked.picture), asked.pixel_size_mm)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(answers, indent=1))
