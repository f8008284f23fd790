"""Finish the parity ledger on a Mac: predict the golden frames with Core ML and compare.

Copy the export folder to a Mac and run, in it:

    python3 -m pip install "coremltools>=9.0" "numpy<2.4" pillow
    python3 verify_coreml.py

Works with Python 3.9, which Apple ships. The rows `coreml-...` of parity.json change from NOT RUN to `ok` or `FAILED`,
each as soon as its package is done. A package that cannot be loaded or cannot predict is FAILED, with Core ML's own
message. The limits come from the export's gates (`on_device` in manifest.json).

Exit code: 0 all rows are ok; 1 a row failed; 2 nothing can be verified here (not macOS, no coremltools, incomplete
export folder, no Core ML package); 3 no row failed but one is still NOT RUN.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

PINS = '"coremltools>=9.0" "numpy<2.4" pillow'
UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
SEAL = "manifest_sha256"  # the manifest's digest of its other keys
AGES, BASIS, TOP = "ages", "ages_basis", 15  # the age is the median of the TOP most similar ages
# File -> a key that it must have.
FILES = {"manifest.json": "artifacts", "parity.json": "rows", "golden/golden.json": "rows"}


def read_heads(path: Path) -> dict[str, tuple[dict[str, Any], Any]]:
    """Read heads.safetensors: tensor -> description (empty for the basis of the ages) and numbers, float32."""
    import numpy as np  # coremltools brings it, whose absence `main` reports

    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    texts, heads = header.pop("__metadata__"), {}
    for name, entry in header.items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        kind = {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]
        numbers = np.frombuffer(content[begin:end], kind).reshape(entry["shape"])
        heads[name] = (json.loads(texts.get(name, "{}")), numbers.astype("f4"))
    return heads


def age_of(heads: dict[str, tuple[dict[str, Any], Any]], spacing: str, embedding: Any) -> int:
    """Return the age in days of an embedding, at a spacing of the age table."""
    description, coordinates = heads[AGES]
    row = coordinates[description["spacings_mm_per_px"].index(spacing)]
    order = (-(row @ (heads[BASIS][1] @ embedding))).argsort(kind="stable")
    return int(description["ages_days"][0] + sorted(order[:TOP])[TOP // 2])


def verify_package(
    model: Any, entry: dict[str, Any], golden: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """Predict every golden frame with one package.

    Args:
        model: A loaded `coremltools` model.
        entry: The package's entry in the manifest, with its ``name``; ``on_device`` holds its limits.
        golden: Rows of golden.json: inputs and answers of the trained model.
        folder: The export folder.

    Returns:
        ``status`` ("ok", "FAILED" or "NOT RUN"), ``note`` and ``figures``.
    """
    name = entry["name"]
    head, heads = name.removeprefix("coreml-"), read_heads(folder / "heads.safetensors")
    cosines: list[float] = []
    differences: list[float] = []
    days: list[int] = []  # between golden and found ages
    classes: list[tuple[str, str]] = []  # of the golden answers, and found
    skipped = 0
    for row in golden:
        image = golden_image(folder / "golden" / row["input"], gray=name == "coreml-gray")
        if image is None:
            skipped += 1
            continue
        output = model.predict({"image": image})
        if head in row:
            got = next(value for value in output.values() if isinstance(value, dict))
            differences += [abs(row[head][label] - float(got[label])) for label in row[head]]
            classes.append((max(row[head], key=row[head].__getitem__), max(got, key=got.__getitem__)))
            continue
        wanted, embedding = row["embedding"], output["embedding"].reshape(-1).astype(float)
        cosines.append(float(embedding @ wanted) / (math.hypot(*embedding) * math.hypot(*wanted)))
        for other, (description, vectors) in heads.items():
            if description.get("kind") == "classes":
                found = description["labels"][int((vectors @ embedding).argmax())]
                classes.append((max(row[other], key=row[other].__getitem__), found))
        if AGES in row:
            days.append(abs(age_of(heads, row[AGES]["spacing_mm_per_px"], embedding) - row[AGES]["age_days"]))
    if not classes:
        return {"status": "NOT RUN", "note": "no golden frame fits this package", "figures": {}}
    figures = {"flip_rate": sum(wanted != got for wanted, got in classes) / len(classes)}
    import numpy as np  # its min and max keep a NaN, Python's pass over it

    name, worst = ("cosine_min", np.min(cosines)) if cosines else ("difference_max", np.max(differences))
    figures[name] = float(worst)
    limits = dict(entry["on_device"])
    if days:
        figures["age_days_max"] = float(max(days))
    else:  # no golden frame has an age
        limits.pop("age_days_max", None)
    counts = {"frames": float(len(golden) - skipped), "skipped": float(skipped)}
    shown = {key: None if math.isnan(value) else value for key, value in figures.items()}  # JSON has no NaN
    return {**verdict(figures, limits), "figures": {**shown, **counts}}


def golden_image(path: Path, gray: bool) -> Any:
    """Open a golden frame; as one channel for a gray camera's package, None when its channels differ."""
    from PIL import Image

    image = Image.open(path, formats=("PNG",)).convert("RGB")
    if not gray:
        return image
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else None


def verdict(figures: dict[str, float], limits: dict[str, float]) -> dict[str, str]:
    """Compare figures with limits, such as ``cosine_min``, ``age_days_max`` and ``flip_rate_max``."""
    notes, bad = [], False
    for name, limit in limits.items():
        figure = figures.get("flip_rate" if name == "flip_rate_max" else name)
        if figure is None:
            return {"status": "FAILED", "note": f"{name} was not measured"}
        kept = figure >= limit if name.endswith("_min") else figure <= limit  # NaN is never kept
        bad = bad or not kept
        notes.append(f"{name.removesuffix('_max').removesuffix('_min')} {figure:.6g}, limit {limit:g}")
    if not notes:
        return {"status": "NOT RUN", "note": "its gate has no limit for single frames"}
    return {"status": "FAILED" if bad else "ok", "note": "; ".join(notes)}


def read_folder(folder: Path) -> list[dict[str, Any]]:
    """Return manifest, ledger and golden answers of an export folder.

    Raises:
        ValueError: A file is missing, is not JSON, lacks a key, or is not the one that was exported.
    """
    contents = []
    for name, key in FILES.items():
        try:
            contents.append(json.loads((folder / name).read_text(encoding="utf-8")))
            contents[-1][key]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / name}: not as the export wrote it ({describe(error)})") from error
    manifest = contents[0]
    if manifest.get(SEAL) != sealed(manifest):
        raise ValueError(f"{folder / 'manifest.json'}: edited after the export; export again")
    for entry in manifest["artifacts"].values():
        if entry["kind"] in ("heads", "golden") and digest(folder / entry["file"]) != entry["sha256"]:
            raise ValueError(f"{folder / entry['file']}: not what the manifest describes; export again")
    return contents


def sealed(manifest: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's other keys."""
    plain = {key: value for key, value in manifest.items() if key != SEAL}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest(path: Path) -> str | None:
    """Return the SHA-256 of a file, or of a folder as the export's README defines it; None if it is missing."""
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    total = hashlib.sha256()
    for file in sorted(path.rglob("*"), key=lambda file: file.parts):
        name = file.relative_to(path)
        if file.is_file() and not any(part.startswith(".") for part in name.parts):
            total.update(f"{name.as_posix()}\0{digest(file)}\n".encode())
    return total.hexdigest()


def describe(error: Exception) -> str:
    """Return an error's kind and message on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def verify(
    entry: dict[str, Any], golden: list[dict[str, Any]], folder: Path, ct: Any, units: str
) -> dict[str, Any]:
    """Load one package and predict with it; see `verify_package`."""
    if digest(folder / entry["file"]) != entry["sha256"]:
        return {"status": "FAILED", "note": "not the file that the manifest describes", "figures": {}}
    try:
        model = ct.models.MLModel(str(folder / entry["file"]), compute_units=getattr(ct.ComputeUnit, units))
        return verify_package(model, entry, golden, folder)
    except (
        Exception
    ) as error:  # coremltools raises bare ones, for an old system or a package that does not compile
        return {"status": "FAILED", "note": f"Core ML did not run it: {describe(error)}", "figures": {}}


def save(folder: Path, manifest: dict[str, Any], parity: dict[str, Any]) -> None:
    """Write parity.json and, with its new hash, the manifest; each is replaced atomically."""
    content = (json.dumps(parity, indent=1) + "\n").encode()
    manifest["artifacts"]["parity"].update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest[SEAL] = sealed(manifest)
    text = json.dumps(manifest, indent=2) + "\n"
    for name, data in (("parity.json", content), ("manifest.json", text.encode())):
        partial = folder / f".{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)


def main(arguments: list[str] | None = None) -> int:
    """Verify every Core ML package of the folder that holds this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--units", choices=UNITS, default="ALL", help="compute units that may be used")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    if platform.system() != "Darwin":
        print("NOT RUN: Core ML predicts on macOS only; copy this folder to a Mac and run this script there")
        return 2
    try:
        import coremltools as ct
        import PIL  # noqa: F401

        manifest, parity, golden = read_folder(folder)
    except ImportError as error:
        print(f"NOT RUN: {error}; python3 -m pip install {PINS}")
        return 2
    except ValueError as error:
        print(f"NOT RUN: {error}")
        return 2
    rows = {row["variant"]: row for row in parity["rows"]}
    system = f"Core ML, {options.units}, macOS {platform.mac_ver()[0]} {platform.machine()}"
    found = set()
    for name, entry in manifest["artifacts"].items():
        if entry["kind"] != "coreml":
            continue
        result = verify({**entry, "name": name}, golden["rows"], folder, ct, options.units)
        rows.setdefault(name, {"variant": name}).update(
            result, how=system, frames=int(result["figures"].get("frames", 0))
        )
        save(folder, manifest, {**parity, "rows": list(rows.values())})
        found.add(result["status"])
        print(f"{name:32} {result['status']:8} {result['note']}", flush=True)
    if not found:
        print("NOT RUN: this export has no Core ML package; export again without --skip=coreml")
        return 2
    if "FAILED" in found:
        return 1
    return 0 if found == {"ok"} else 3


if __name__ == "__main__":
    sys.exit(main())
