"""The code of docs/deploy.md runs, where it can run here."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections import defaultdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from tests.export.guide_code import GUIDE, guide_code

ROOT = Path(__file__).resolve().parents[2]
(ONNXRUNTIME_WEB,) = re.findall(r"`npm install (onnxruntime-web@[\d.]+)`", GUIDE.read_text())
CHROMIUM = next(
    (name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None
)
# The page of an app: it decodes golden pictures, proves itself, and says what it found, wrong pixels included.
PAGE = """<!doctype html>{import_map}<script type="module">
const tell = (answer) => fetch("/answer", {{ method: "POST", body: JSON.stringify(answer) }});
const picture = async (name) => createImageBitmap(await (await fetch(`/golden/${{name}}`)).blob());
try {{
  const {{ cosine, embed, frameToPixels, read, selfTest }} = await import("/reader.mjs");
  const golden = await (await fetch("/golden/golden.json")).json();
  const rows = [];
  for (const row of golden.rows) {{
    const [input, frame] = [await picture(row.input), await picture(row.frame)];
    const image = Object.assign(new Image(), {{ src: `/golden/${{row.frame}}` }});
    await image.decode();
    const stretched = new OffscreenCanvas(input.width, input.height);
    stretched.getContext("2d").drawImage(frame, 0, 0, input.width, input.height);
    const inverted = new OffscreenCanvas(input.width, input.height);
    Object.assign(inverted.getContext("2d"), {{ filter: "invert(1)" }}).drawImage(input, 0, 0);
    const pixels = (source) => Array.from(frameToPixels(source, input.width));
    rows.push({{
      embedding: Array.from(await embed(frameToPixels(input, input.width))), planes: await read(image),
      input: pixels(input), frame: pixels(frame), stretched: pixels(stretched),
      cosine: cosine(await embed(frameToPixels(frame, input.width)), row.embedding),
      right: await selfTest(golden, row, input, frame), wrong: await selfTest(golden, row, inverted, frame),
      unlikeAFrame: await selfTest({{ ...golden, cosine_min_from_frame: 1.1 }}, row, input, frame),
    }});
  }}
  await tell({{ rows }});
}} catch (error) {{ await tell({{ error: String(error) }}); }}
</script>"""


def blocks(mark):
    return guide_code(r"\w+", f"tested{mark}")


def test_python_from_frame_to_plane_and_age(exported):
    names = {"FOLDER": exported.folder}
    found = blocks("")
    assert len(found) == 2
    for block in found:
        exec(block, names)
    golden = json.loads((exported.folder / "golden" / "golden.json").read_text())["rows"][0]
    assert names["embedding"] @ np.array(golden["embedding"]) > 0.9999
    assert names["label"] == max(golden["planes"], key=golden["planes"].get)
    assert 14 <= names["weeks"] < 39
    rows = json.loads((exported.folder / "golden" / "golden.json").read_text())["rows"]
    assert any("ages" in row for row in rows)


def test_javascript_from_pixels_to_probabilities(exported, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (code,) = blocks(": javascript")
    (tmp_path / "guide.mjs").write_text(code)
    row = json.loads((exported.folder / "golden" / "golden.json").read_text())["rows"][0]
    image = np.asarray(Image.open(exported.folder / "golden" / row["input"]).convert("RGBA"))
    (tmp_path / "run.mjs").write_text(
        "import { readFileSync } from 'fs';\n"
        "import { planar, letterbox, readHead, classify, cosine } from './guide.mjs';\n"
        "const { rgba, side, embedding, heads } = JSON.parse(readFileSync('in.json'));\n"
        "const head = readHead(new Uint8Array(readFileSync(heads)).buffer, 'planes');\n"
        "console.log(JSON.stringify({ planes: classify(embedding, head),\n"
        "  pixels: Array.from(planar(rgba, side)), box: letterbox(800, 541),\n"
        "  same: cosine(embedding, embedding) }));\n"
    )
    heads = str(exported.artifact("heads"))
    content = {"rgba": image.reshape(-1).tolist(), "side": 64, "embedding": row["embedding"], "heads": heads}
    (tmp_path / "in.json").write_text(json.dumps(content))
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["planes"] == pytest.approx(row["planes"], abs=1e-4)
    np.testing.assert_array_equal(np.array(answer["pixels"]), image[..., :3].transpose(2, 0, 1).reshape(-1))
    assert answer["box"] == {"side": 800, "left": 0, "top": 129}
    assert answer["same"] == pytest.approx(1)


def test_the_swift_that_a_mac_type_checks_is_the_guides(tmp_path):
    script = ROOT / "tests" / "export" / "guide_code.py"
    assert (
        "python3 tests/export/guide_code.py swift > "
        in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "swift"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (block,) = guide_code("swift")
    assert done.stdout == block + "\n"
    lines = block.splitlines()
    assert lines[0].startswith("import ")
    assert "final class PlaneReader {" in lines
    assert "image_encoder(configuration:" in block, (
        "the class that coremlc writes for image_encoder.mlpackage"
    )
    assert block.count("{") == block.count("}")
    absent = [sys.executable, str(script), "cobol"]
    assert subprocess.run(absent, capture_output=True, check=False).returncode == 1


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The files of ONNX Runtime for browsers."""
    if shutil.which("npm") is None or CHROMIUM is None:
        pytest.skip("needs npm and Chromium (Debian: apt-get install npm chromium)")
    folder = tmp_path_factory.mktemp("onnxruntime-web")
    fetch = ["npm", "pack", "--prefer-offline", "--silent", ONNXRUNTIME_WEB]
    done = subprocess.run(fetch, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"npm cannot fetch {ONNXRUNTIME_WEB} here: {done.stderr.strip()[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


@pytest.mark.slow
def test_a_page_proves_itself_in_a_browser(exported, runtime, tmp_path):
    (helpers,), (code,), (page,) = blocks(": javascript"), blocks(": browser"), blocks(": page")
    (import_map,) = re.findall(r'<script type="importmap">.*?</script>', page, flags=re.DOTALL)
    (tmp_path / "index.html").write_text(PAGE.format(import_map=import_map))
    (tmp_path / "reader.mjs").write_text(f"{helpers}\n{code}")
    (tmp_path / "node_modules" / "onnxruntime-web").mkdir(parents=True)
    (tmp_path / "node_modules" / "onnxruntime-web" / "dist").symlink_to(runtime)
    for part in ("image_encoder.onnx", "manifest.json", "heads.safetensors", "golden"):
        (tmp_path / part).symlink_to(exported.folder / part)
    answer, fetched = answer_of_a_page(tmp_path)
    assert "error" not in answer, answer
    runtime_files = {Path(path).name for path in fetched if "onnxruntime-web" in path}
    assert runtime_files == {"ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"}, "no JSEP: deprecated"
    golden = json.loads((exported.folder / "golden" / "golden.json").read_text())
    assert len(answer["rows"]) == len(golden["rows"])
    off = defaultdict(list)  # mean difference of pixel values from what the contract asks, by way
    for found, row in zip(answer["rows"], golden["rows"], strict=True):
        width, height = Image.open(exported.folder / "golden" / row["frame"]).size
        assert width != height, "only a frame that is not square sees the padding"
        wanted = np.asarray(Image.open(exported.folder / "golden" / row["input"]).convert("RGB"), dtype=float)
        for name in ("input", "frame", "stretched"):
            pixels = np.array(found[name]).reshape(*wanted.shape[:2], 4)
            off[name].append(np.abs(pixels[..., :3] - wanted).mean())
        np.testing.assert_allclose(found["embedding"], row["embedding"], atol=1e-4)
        assert found["cosine"] >= golden["cosine_min_from_frame"]
        assert found["planes"] == pytest.approx(row["planes"], abs=0.05)
        assert (found["right"], found["wrong"], found["unlikeAFrame"]) == (True, False, False)
    assert max(off["input"]) == 0
    assert np.mean(off["frame"]) < 2.5, "4.9 where nothing is antialiased"
    assert np.mean(off["stretched"]) > 10


def answer_of_a_page(folder):
    """Serve a folder to a headless browser, and return what its page posts and the paths that it fetched."""
    answers: Queue = Queue()
    fetched: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path)
            super().do_GET()

        def do_POST(self):
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    )
    command = [
        str(CHROMIUM), *options, "--remote-debugging-port=0", f"--user-data-dir={folder / 'profile'}",
        f"http://127.0.0.1:{server.server_port}/index.html",
    ]  # fmt: skip
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return answers.get(timeout=120), fetched
    except Empty:
        pytest.fail("the page gave no answer within two minutes")
    finally:
        browser.terminate()
        browser.wait(timeout=30)
        server.shutdown()
