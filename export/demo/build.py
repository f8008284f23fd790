"""Build the demo page: static files, runtime, an export's files, simulated frames, and demo.json, which lists them."""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from datamodules import PhantomDataModule, Record
from datamodules.pairs.image_reading import read_image
from datamodules.phantom.corpus import PhantomSettings, read_truth
from export.demo.runtime import LITERT, ONNX_RUNTIME, litert_files, runtime_files
from export.package.manifest import Export, read_export
from export.package.model_card import LICENCES, MODEL_CARD
from export.package.readme import CLIENTS, LICENCE_TEXT, licence_text
from metrics.benchmarks import BENCHMARKS, PLANES, SUBPLANES
from metrics.growth_chart import COEFFICIENTS
from models.files import atomic_folder, digest, sha256, write_json
from models.student.base import BRAIN
from models.student.manifest import MANIFEST

STATIC = Path(__file__).parent / "static"
READER = CLIENTS / "reader.mjs"
DEMO = "demo.json"
SERVICE_WORKER = "sw.js"
MODELS = ("onnx-fp32", "onnx-int8", "litert-fp32", "litert-int8")
"""Artifacts that the page offers, the default first; those which the export holds."""
TEXT = {"model": "onnx-text", "tokenizer": "text/tokenizer.json", "golden": "text/text_golden.json"}
"""Artifacts of the text tower. A `transformers` tokenizer lies elsewhere, and the page does not read it."""
KEPT = {".json", ".md", ".onnx", ".png", ".safetensors", ".tflite"}
"""Suffixes of an export's files on the page: a foreign export must not bring a script."""
HEADS = 3
DAYS_A_WEEK = 7


def build_demo(source: Path, target: Path, runtimes: Sequence[Path] = ()) -> Path:
    """Build the page of an export as a folder for any static host; an older page there is replaced.

    Args:
        source: The folder that `make export` wrote.
        target: Folder to write.
        runtimes: Packages of the runtimes; see `runtime_files`.

    Raises:
        ValueError: The target is something else, or the export or the runtime cannot be used.
        FileNotFoundError: There is no such export.
    """
    export = read_export(source)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / DEMO).is_file())):
        raise ValueError(f"--build={target}: exists and is not such a page; name a new or an empty folder")
    files = runtime_files(ONNX_RUNTIME, runtimes)
    if any(name.startswith("litert-") for name in export.manifest["artifacts"]):
        files |= litert_files(runtimes)
    with atomic_folder(target) as partial:
        _fill(partial, export, files)
    return target


def _fill(folder: Path, export: Export, runtime: Mapping[str, bytes]) -> None:
    left_out = shutil.ignore_patterns(".*", SERVICE_WORKER)  # a file manager may leave a .DS_Store
    shutil.copytree(STATIC, folder, dirs_exist_ok=True, copy_function=shutil.copyfile, ignore=left_out)
    shutil.copyfile(READER, folder / READER.name)
    (folder / LICENCE_TEXT).write_text(licence_text(), encoding="utf-8")
    for name, content in runtime.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    static_files = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".wasm"
    }
    artifacts = export.manifest["artifacts"]
    variants = {name: str(artifacts[name]["file"]) for name in MODELS if name in artifacts}
    heads, text = str(artifacts["heads"]["file"]), _text_tower(artifacts)
    golden = sorted(f"golden/{path.name}" for path in export.artifact("golden").glob("[!.]*"))
    for name in (MANIFEST, MODEL_CARD, LICENCES, heads, *variants.values(), *golden, *(text or {}).values()):
        copy = folder / name
        if copy.exists() or copy.suffix not in KEPT:
            raise ValueError(f"{export.folder}: {name} cannot be part of the page; export again")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(export.folder / name, copy)
    samples = _write_samples(folder / "samples")
    facts: dict[str, Any] = {
        "model": export.manifest["model_sha256"],
        "runtimes": {"onnx": ONNX_RUNTIME.version, "litert": LITERT.version},
        "variants": variants,
        "heads": heads,
        "text": text,
        "benchmarks": [
            _benchmark(name) for name, head in export.manifest["heads"].items() if head["kind"] == "classes"
        ],
        "brain": {"key": BENCHMARKS[PLANES].label, "label": BRAIN},
        "chart": {str(centile): values for centile, values in COEFFICIENTS.items()},
        "samples": samples,
        "static_files": static_files,
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file() and (name := path.relative_to(folder).as_posix()) not in static_files
        },
    }
    facts["build"] = digest(facts)
    write_json(folder / DEMO, facts)
    worker = (STATIC / SERVICE_WORKER).read_text(encoding="utf-8")
    worker = worker.replace('BUILD = ""', f'BUILD = "{facts["build"]}"')
    (folder / SERVICE_WORKER).write_text(worker, encoding="utf-8")


def _benchmark(name: str) -> dict[str, Any]:
    """Describe the classes of a head; a user's own benchmark has its name as title and column."""
    known = BENCHMARKS.get(name)
    if known is None or known.own:
        return {"name": name, "key": name, "title": name, "ofBrain": False}
    title = "Plane" if name == PLANES else known.subject.capitalize()
    return {"name": name, "key": known.label, "title": title, "ofBrain": name == SUBPLANES}


def _text_tower(artifacts: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the text tower's files by use: None without a text tower, none where its tokenizer is not ours."""
    if TEXT["model"] not in artifacts:
        return None
    known = all(name in artifacts for name in TEXT.values())
    return {use: str(artifacts[name]["file"]) for use, name in TEXT.items()} if known else {}


def _write_samples(folder: Path) -> list[dict[str, Any]]:
    """Simulate a few frames of the phantom, with plane, age and pixel size as they were simulated."""
    folder.mkdir()
    with tempfile.TemporaryDirectory() as root:
        settings = PhantomSettings(
            seed=21, num_planes_images=48, num_hc18_images=8, num_pair_images=0, further_tests=0.0
        )
        data = PhantomDataModule(root=root, corpus=settings, workers=1, num_workers=0)
        records = data.read_records()
        (corpus,) = (path.parent for path in Path(root).rglob("truth.csv"))
        truth = read_truth(corpus)
        samples: list[dict[str, Any]] = []
        for record in _varied(records):
            file = folder / f"sample_{len(samples)}.png"
            Image.fromarray(read_image(record.image)).save(file, optimize=True)
            facts = truth[record.corpus, record.image.stem]
            title = facts["brain_plane"] or facts["plane"]
            samples.append(
                {
                    "file": f"{folder.name}/{file.name}",
                    "title": f"{title}, {int(facts['ga_days']) // DAYS_A_WEEK} weeks",
                    "pixel_size_mm": round(float(facts["pixel_size_mm"]), 4),
                }
            )
    return samples


def _varied(records: Sequence[Record]) -> list[Record]:
    """Return heads and one record of each plane, each of another patient."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.corpus if record.corpus == "hc18" else record.brain_plane or str(record.plane)].append(
            record
        )
    chosen: dict[str, Record] = {}
    for key, group in sorted(groups.items(), key=lambda item: len(item[1])):  # rare planes choose first
        new = {record.patient: record for record in group if record.patient not in chosen}
        chosen |= dict(list(new.items())[: HEADS if key == "hc18" else 1])
    return sorted(chosen.values(), key=lambda record: record.corpus != "hc18")
