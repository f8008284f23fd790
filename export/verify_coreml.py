"""Finish the parity ledger on a Mac: predict the golden frames with Core ML and compare.

Copy the export folder to a Mac and run, in it:

    python -m pip install coremltools pillow
    python verify_coreml.py

Only coremltools is needed (it takes images as Pillow ones). The rows `...-on-device` of parity.json, NOT RUN
before, become `ok` or `FAILED`. The exit code is 0 when all are ok, 1 when one failed, and 2 when Core ML
cannot predict here.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

COSINE_MIN = 0.999  # float16 arithmetic of another make
COSINE_MIN_SMALL = 0.98  # 8-bit and 6-bit weights
PROBABILITY_DIFFERENCE_MAX = 0.05
UNITS = ("ALL", "CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
SMALL = ("palette8", "palette6", "int8")


def cosine(left: list[float], right: list[float]) -> float:
    """Return the cosine of two vectors."""
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / (math.hypot(*left) * math.hypot(*right))


def verify_package(
    model: Any, entry: dict[str, Any], golden: list[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """Predict every golden frame with one package.

    Args:
        model: A loaded `coremltools` model.
        entry: The package's entry in the manifest.
        golden: Rows of golden.json.
        folder: The export folder.

    Returns:
        ``status`` ("ok" or "FAILED"), ``note`` and ``figures``.
    """
    from PIL import Image

    name = entry["name"]
    gray = "gray" in name
    head = name.removeprefix("coreml-")
    cosines, differences, flips, skipped = [], [], 0, 0
    for row in golden:
        image = Image.open(folder / "golden" / row["input"]).convert("RGB")
        if gray:
            red, green, blue = image.split()
            if not red.tobytes() == green.tobytes() == blue.tobytes():
                skipped += 1
                continue
            image = red
        output = model.predict({"image": image})
        if head in row:
            expected = row[head]
            got = next(value for value in output.values() if isinstance(value, dict))
            differences.append(max(abs(expected[label] - float(got[label])) for label in expected))
            flips += max(expected, key=expected.__getitem__) != max(got, key=got.__getitem__)
        else:
            cosines.append(cosine([float(v) for v in output["embedding"].reshape(-1)], row["embedding"]))
    if not cosines and not differences:
        return {"status": "NOT RUN", "note": "no golden frame fits this package", "figures": {}}
    figures: dict[str, float] = {"frames": float(len(cosines) + len(differences)), "skipped": float(skipped)}
    if cosines:
        limit = COSINE_MIN_SMALL if any(kind in name for kind in SMALL) else COSINE_MIN
        figures["cosine_min"] = min(cosines)
        bad = not min(cosines) >= limit  # a NaN is bad, too
        note = f"cosine {min(cosines):.6f}, limit {limit}"
    else:
        figures |= {"difference_max": max(differences), "flips": float(flips)}
        bad = not max(differences) <= PROBABILITY_DIFFERENCE_MAX
        limit = PROBABILITY_DIFFERENCE_MAX
        note = f"probability difference {max(differences):.4f}, limit {limit}, {flips} flips"
    return {"status": "FAILED" if bad else "ok", "note": note, "figures": figures}


def main(arguments: list[str] | None = None) -> int:
    """Verify every Core ML package of the folder that this script lies in."""
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
    import coremltools as ct

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    golden = json.loads((folder / "golden" / "golden.json").read_text(encoding="utf-8"))["rows"]
    rows = {row["variant"]: row for row in parity["rows"]}
    failed = 0
    for name, entry in manifest["artifacts"].items():
        if entry["kind"] != "coreml":
            continue
        model = ct.models.MLModel(
            str(folder / entry["file"]), compute_units=getattr(ct.ComputeUnit, options.units)
        )
        result = verify_package(model, {**entry, "name": name}, golden, folder)
        system = f"Core ML, {options.units}, macOS {platform.mac_ver()[0]} {platform.machine()}"
        row = rows.setdefault(f"{name}-on-device", {"variant": f"{name}-on-device"})
        row.update(result, how=system)
        failed += result["status"] == "FAILED"
        print(f"{row['variant']:32} {result['status']:8} {result['note']}")
    parity["rows"] = list(rows.values())
    partial = folder / ".parity.json.partial"
    partial.write_text(json.dumps(parity, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / "parity.json")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
