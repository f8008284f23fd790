"""The code of docs/deploy.md runs, where it can run here."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from datamodules import PhantomDataModule
from datamodules.pairs.image_reading import read_image
from datamodules.phantom.corpus import PhantomSettings
from experiments.commands.export import main
from export import read_export
from models import load_student
from tests.export.demo.visit import CHROMIUM
from tests.export.guide_code import GUIDE, guide_code
from tests.export.test_trained_student import CORPUS, train

ROOT = Path(__file__).resolve().parents[2]
(ONNXRUNTIME_WEB,) = re.findall(r"`npm install (onnxruntime-web@[\d.]+)`", GUIDE.read_text())
# The page of an app: it decodes pictures, proves itself, and says what it found, a wrong picture included.
PAGE = """<!doctype html>{import_map}<script type="module">
const tell = (answer) => {{ globalThis.answer = answer; }};
const picture = async (name) => createImageBitmap(await (await fetch(name)).blob());
try {{
  const {{ embed, frameToPixels, read, selfTest }} = await import("/page.mjs");
  const golden = await (await fetch("/golden/golden.json")).json();
  const rows = [], answers = [];
  for (const row of golden.rows) {{
    const [input, frame] = [await picture(`/golden/${{row.input}}`), await picture(`/golden/${{row.frame}}`)];
    const inverted = new OffscreenCanvas(input.width, input.height);
    Object.assign(inverted.getContext("2d"), {{ filter: "invert(1)" }}).drawImage(input, 0, 0);
    rows.push({{
      embedding: Array.from(await embed(frameToPixels(frame))), pixels: Array.from(frameToPixels(frame)),
      right: await selfTest(golden, row, input, frame), wrong: await selfTest(golden, row, inverted, frame),
      unlikeAFrame: await selfTest({{ ...golden, cosine_min_from_frame: 1.1 }}, row, input, frame),
    }});
  }}
  for (const {{ file, size }} of await (await fetch("/frames.json")).json()) {{
    const image = Object.assign(new Image(), {{ src: file }});
    await image.decode();
    answers.push(await read(image, size));
  }}
  tell({{ rows, answers }});
}} catch (error) {{ tell({{ error: String(error) }}); }}
</script>"""


def blocks(mark):
    return guide_code(r"\w+", f"tested{mark}")


def test_python_from_frame_to_plane_and_age(exported, golden):
    rows, _ = golden
    size = 0.3 * exported.preprocessing.image_size
    size /= max(Image.open(exported.folder / "golden" / rows[0]["frame"]).size)
    names = {"FOLDER": exported.folder, "PIXEL_SIZE_MM": size}
    found = blocks("")
    assert len(found) == 2
    for block in found:
        exec(block, names)
    assert names["plane"] == max(rows[0]["planes"], key=rows[0]["planes"].get)
    assert 14 <= names["weeks"] < 39
    assert any("ages" in row for row in rows)


def test_ci_type_checks_the_guides_swift_and_kotlin_beside_the_readers(tmp_path):
    script, ci = ROOT / "tests/export/guide_code.py", (ROOT / ".github/workflows/ci.yml").read_text()
    for language in ("swift", "kotlin"):
        assert f"python3 tests/export/guide_code.py {language} > " in ci
        command = [sys.executable, "-I", "-S", str(script), language]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        (block,) = guide_code(language)
        assert done.stdout == block + "\n"
        assert "StudentReader" in block
        assert block.count("{") == block.count("}")
    assert "nnapi" not in GUIDE.read_text().lower()
    absent = [sys.executable, str(script), "cobol"]
    assert subprocess.run(absent, capture_output=True, check=False).returncode == 1


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The files of ONNX Runtime for browsers."""
    if shutil.which("npm") is None or CHROMIUM is None:
        pytest.skip("needs npm and Chromium (Debian: apt-get install npm chromium)")
    folder = tmp_path_factory.mktemp("onnxruntime-web")
    fetch = ["npm", "pack", "--prefer-offline", "--silent", ONNXRUNTIME_WEB]
    try:
        subprocess.run(fetch, cwd=folder, capture_output=True, text=True, check=True, timeout=300)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot fetch {ONNXRUNTIME_WEB} here: {error}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


FRAMES = 60


@pytest.mark.slow
def test_a_page_gives_the_ages_and_planes_of_a_trained_student(trained, runtime, tmp_path):
    """On heads of the phantom: with another resize two of three ages differ."""
    export, data = trained
    (code,), (page,) = blocks(": browser"), blocks(": page")
    (import_map,) = re.findall(r'<script type="importmap">.*?</script>', page, flags=re.DOTALL)
    (tmp_path / "index.html").write_text(PAGE.format(import_map=import_map))
    (tmp_path / "page.mjs").write_text(code)
    (tmp_path / "node_modules" / "onnxruntime-web").mkdir(parents=True)
    (tmp_path / "node_modules" / "onnxruntime-web" / "dist").symlink_to(runtime)
    for part in ("image_encoder.onnx", "manifest.json", "heads.safetensors", "reader.mjs", "golden"):
        (tmp_path / part).symlink_to(export.folder / part)
    records = [record for record in data.read_records() if record.corpus == "hc18"][:FRAMES]
    named = [
        {"file": f"/{number}.png", "size": record.pixel_size_mm} for number, record in enumerate(records)
    ]
    for one, record in zip(named, records, strict=True):
        Image.fromarray(read_image(record.image)).save(tmp_path / one["file"][1:])
    (tmp_path / "frames.json").write_text(json.dumps(named))
    answer, fetched = answer_of_a_page(tmp_path)
    assert "error" not in answer, answer
    runtime_files = {Path(path).name for path in fetched if "onnxruntime-web" in path}
    assert runtime_files == {"ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"}, "no JSEP: deprecated"
    golden = json.loads((export.folder / "golden" / "golden.json").read_text())
    for found, row in zip(answer["rows"], golden["rows"], strict=True):
        wanted = np.asarray(Image.open(export.folder / "golden" / row["input"]).convert("RGB"))
        pixels = np.array(found["pixels"]).reshape(3, *wanted.shape[:2])
        np.testing.assert_array_equal(pixels, wanted.transpose(2, 0, 1))
        np.testing.assert_allclose(found["embedding"], row["embedding"], atol=1e-4)
        assert (found["right"], found["wrong"], found["unlikeAFrame"]) == (True, False, False)
    student, images = load_student(export.folder), [read_image(record.image) for record in records]
    ages = student.gestational_age(images, [record.pixel_size_mm for record in records])
    aged = [(own, age) for own, age in zip(answer["answers"], ages, strict=True) if own["days"] is not None]
    is_brain = [max(own["planes"], key=own["planes"].get) == "brain" for own in answer["answers"]]
    assert [own["days"] is not None for own in answer["answers"]] == is_brain
    off = np.array([own["days"] - age["ga_days"] for own, age in aged])
    assert len(off) >= 50
    # Where the fifteenth and the sixteenth age nearly tie, sums in another order choose another one.
    assert (off != 0).mean() <= 0.02
    for own, planes in zip(answer["answers"], student.planes(images), strict=True):
        for label, probability in own["planes"].items():
            assert probability == pytest.approx(planes[f"plane_{label}"], abs=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The export of a phantom student that was trained for a few epochs, and its corpus."""
    folder = tmp_path_factory.mktemp("trained")
    checkpoint = train(folder)
    assert (
        main([str(checkpoint), "--skip=coreml,int8,litert", "--frames=40", f"--age_cache={folder / 'ages'}"])
        == 0
    )
    settings = PhantomSettings(**{name: int(value) for name, value in (one.split("=") for one in CORPUS)})
    data = PhantomDataModule(root=str(folder / "phantom"), corpus=settings, workers=1, num_workers=0)
    return read_export(checkpoint.parents[1] / "export"), data


def answer_of_a_page(folder):
    """Serve a folder to a headless browser, and return what its page says and the addresses that it fetched."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    fetched = []
    try:
        with sync_playwright() as started:
            page = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
            page.on("request", lambda request: fetched.append(request.url))
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            page.wait_for_function("globalThis.answer", timeout=120_000)
            return page.evaluate("answer"), fetched
    finally:
        server.shutdown()
