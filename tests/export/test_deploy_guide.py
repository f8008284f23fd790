"""The code of docs/deploy.md runs, where it can run here."""

import json
import re
import shutil
import subprocess
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import numpy as np
import pytest
from PIL import Image

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
ONNXRUNTIME_WEB = "onnxruntime-web@1.30.0"
CHROMIUM = next(
    (name for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)), None
)
# The page of an app: it decodes a golden picture, proves itself, and says what it found, wrong pixels included.
PAGE = """<!doctype html><script type="importmap">
{"imports": {"onnxruntime-web": "/ort/ort.bundle.min.mjs"}}
</script><script type="module">
const tell = (answer) => fetch("/answer", { method: "POST", body: JSON.stringify(answer) });
try {
  const { embed, selfTest, classify } = await import("/guide.mjs");
  const golden = await (await fetch("/golden/golden.json")).json();
  const picture = await createImageBitmap(await (await fetch(`/golden/${golden.rows[0].input}`)).blob());
  const side = picture.width;
  const canvas = new OffscreenCanvas(side, side).getContext("2d");
  canvas.drawImage(picture, 0, 0);
  const rgba = canvas.getImageData(0, 0, side, side).data;
  const head = await (await fetch("/heads/planes.json")).json();
  const vectors = new Float32Array(await (await fetch(`/heads/${head.file}`)).arrayBuffer());
  const embedding = await embed(rgba, side);
  await tell({
    embedding: Array.from(embedding), planes: classify(embedding, vectors, head),
    right: await selfTest(rgba, golden, side), wrong: await selfTest(rgba.map((value) => 255 - value), golden, side),
  });
} catch (error) { await tell({ error: String(error) }); }
</script>"""


def blocks(mark):
    return re.findall(rf"<!-- tested{mark} -->\n```\w+\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)


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
        "import { planar, letterbox, classify, cosine } from './guide.mjs';\n"
        "const { rgba, side, embedding, head, vectors } = JSON.parse(readFileSync('in.json'));\n"
        "console.log(JSON.stringify({ planes: classify(embedding, vectors, head),\n"
        "  pixels: Array.from(planar(rgba, side)), box: letterbox(800, 541),\n"
        "  same: cosine(embedding, embedding) }));\n"
    )
    head, vectors = exported.head("planes")
    content = {"rgba": image.reshape(-1).tolist(), "side": 64, "embedding": row["embedding"], "head": head}
    (tmp_path / "in.json").write_text(json.dumps({**content, "vectors": vectors.reshape(-1).tolist()}))
    done = subprocess.run(["node", "run.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["planes"] == pytest.approx(row["planes"], abs=1e-4)
    np.testing.assert_array_equal(np.array(answer["pixels"]), image[..., :3].transpose(2, 0, 1).reshape(-1))
    assert answer["box"] == {"side": 800, "left": 0, "top": 129}
    assert answer["same"] == pytest.approx(1)


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
    (helpers,), (page,) = blocks(": javascript"), blocks(": browser")
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "guide.mjs").write_text(f"{helpers}\n{page}")
    (tmp_path / "ort").symlink_to(runtime)
    for part in ("image_encoder.onnx", "heads", "golden"):
        (tmp_path / part).symlink_to(exported.folder / part)
    answers: Queue = Queue()

    class Handler(SimpleHTTPRequestHandler):
        def do_POST(self):
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
    )
    command = [
        str(CHROMIUM), *options, "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}",
        f"http://127.0.0.1:{server.server_port}/index.html",
    ]  # fmt: skip
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answer = answers.get(timeout=120)
    except Empty:
        pytest.fail("the page gave no answer within two minutes")
    finally:
        browser.terminate()
        browser.wait(timeout=30)
        server.shutdown()
    assert "error" not in answer, answer
    row = json.loads((exported.folder / "golden" / "golden.json").read_text())["rows"][0]
    np.testing.assert_allclose(answer["embedding"], row["embedding"], atol=1e-4)
    assert answer["planes"] == pytest.approx(row["planes"], abs=1e-3)
    assert answer["right"] is True
    assert answer["wrong"] is False
