"""The demo page of the tiny export, served on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from playwright.sync_api import sync_playwright

from datamodules.pairs.image_reading import read_image
from export import Export
from export.demo.build import READER, STATIC, build_demo
from export.demo.runtime import ONNX_RUNTIME, runtime_files
from export.demo.server import server_of
from tests.export.demo.visit import CHROMIUM, HEIGHT, WIDTH, Visit


@pytest.fixture(scope="session")
def built(exported: Export, shared: Path) -> Path:
    """The page of `exported`."""
    try:
        runtime_files(ONNX_RUNTIME)
    except ValueError as error:
        pytest.skip(f"no runtime: {error}")
    page = shared / "demo" / "page"
    with FileLock(shared / "page.lock"):
        return page if page.is_dir() else build_demo(exported.folder, page)


@pytest.fixture(scope="module")
def served() -> Iterator[object]:
    """Serve a folder: `served(folder)` returns the server, whose `address` a browser opens."""
    servers = []

    def start(folder: Path) -> object:
        server = server_of(folder, "127.0.0.1", 0)
        server.address = f"http://127.0.0.1:{server.server_port}/"
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """The page's modules where Node runs them."""
    folder = Path(shutil.copytree(STATIC, tmp_path / "modules"))
    shutil.copy(READER, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


@pytest.fixture(scope="session")
def frames(corpus, tmp_path_factory):
    """Fifty frames of the phantom, all of one size."""
    folder = tmp_path_factory.mktemp("frames")
    files = []
    for number, record in enumerate(corpus.read_records()[-50:]):
        image = Image.fromarray(read_image(record.image)).convert("L")
        file = folder / f"frame_{number:02d}.png"
        image.crop((0, 0, WIDTH, HEIGHT)).save(file)
        files.append(file)
    assert len(files) == 50
    return files


@pytest.fixture(scope="session")
def camera(frames, tmp_path_factory):
    """What the fake camera plays: a head and another plane in turn."""
    path = tmp_path_factory.mktemp("camera") / "camera.y4m"
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F30:1 Ip A1:1 C420jpeg\n".encode())
        for frame in (frames[0], frames[-1]):
            gray = np.asarray(Image.open(frame)).tobytes() + bytes([128]) * (WIDTH * HEIGHT // 2)
            file.write((b"FRAME\n" + gray) * 20)
    return path


@pytest.fixture(scope="module")
def browser(camera):
    flags = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
        "--auto-select-desktop-capture-source=Entire screen",
    ]
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(built: Path, served: Callable[[Path], ThreadingHTTPServer]) -> str:
    return served(built).address


@pytest.fixture(scope="module")
def visit(browser, address):
    """One visit, whose tests follow each other; the last ones look at all that it asked for."""
    found = Visit(browser, address)
    found.until("document.body.dataset.readings")
    found.until("document.querySelectorAll('#samples img').length > 8")
    found.page.wait_for_load_state("networkidle")
    found.requests.clear()
    yield found
    found.context.close()
