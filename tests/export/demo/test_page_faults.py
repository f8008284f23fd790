"""The demo page offline, changed, with a failing self-test, and on a host without the headers."""

import hashlib
import json
import os
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.conftest import wait_until
from tests.export.demo.visit import Visit, needs_chromium

pytestmark = needs_chromium


def test_the_second_visit_needs_no_network(browser, built, served):
    server = served(built)
    found = Visit(browser, server.address)
    found.until("document.body.dataset.readings")
    found.after(lambda: found.page.click("#own-score"))
    found.page.wait_for_load_state("networkidle")
    server.shutdown()
    server.server_close()
    found.errors.clear()
    found.page.reload()
    found.until("document.body.dataset.readings")
    assert "resize equal to training's" in found.page.inner_text("#facts")
    found.after(lambda: found.page.click("#own-score"))
    assert "4 labels are scored" in found.page.inner_text("#own-status")
    found.page.click('[data-document="MODEL_CARD.md"]')
    found.until("document.getElementById('document-text').textContent.includes('Model card')")
    assert found.errors == []
    found.context.close()


def test_a_page_in_a_folder_below_another_works_offline_and_so_does_the_other(
    browser, built, served, tmp_path
):
    upper = Path(shutil.copytree(built, tmp_path / "site"))
    lower = Path(shutil.copytree(built, upper / "b"))
    facts = json.loads((lower / "demo.json").read_text())
    (lower / "MODEL_CARD.md").write_text("# Another model card")
    content = (lower / "MODEL_CARD.md").read_bytes()
    facts["files"]["MODEL_CARD.md"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (lower / "demo.json").write_text(json.dumps(facts))
    server = served(upper)
    found = Visit(browser, server.address)
    for address in (server.address, f"{server.address}b/"):
        found.page.goto(address)
        found.until("document.body.dataset.readings")
        found.page.wait_for_load_state("networkidle")
    server.shutdown()
    server.server_close()
    for address, title in ((server.address, "Model card"), (f"{server.address}b/", "Another model card")):
        found.page.goto(address)
        found.until("document.body.dataset.readings")
        found.page.click('[data-document="MODEL_CARD.md"]')
        found.until(f"document.getElementById('document-text').textContent.includes('{title}')")
    kept = found.page.evaluate(
        """async (scope) => (await (await caches.open(`sonodistill-demo ${scope}`)).keys()).map(({ url }) => url)""",
        server.address,
    )
    assert len(kept) > 20
    assert not [url for url in kept if url.startswith(f"{server.address}b/")]
    found.context.close()


@pytest.mark.parametrize("asked", ["picture", "camera"])
def test_what_is_asked_for_while_the_student_loads_is_read(browser, address, frames, asked):
    held = []

    def hold(route):
        held.append(route) if "image_encoder.onnx" in route.request.url else route.continue_()

    found = Visit(browser, address, hold, service_workers="block")
    found.until("document.querySelectorAll('#samples img').length > 0")
    if asked == "picture":
        found.page.set_input_files("#files", frames[0])
    else:
        found.ask_for_cameras()
        found.page.click("#camera")
    wait_until(lambda: found.page.wait_for_timeout(50) or held)
    held[0].continue_()
    found.until("document.body.dataset.readings")
    if asked == "picture":
        assert found.page.inner_text("#source-name") == frames[0].name
    else:
        assert found.page.inner_text("#source-name").startswith("Sample, simulated: ")
        found.after(lambda: found.page.evaluate("allow()"), 2)
        assert found.page.inner_text("#source-name") == "Camera"
        assert found.page.input_value("#pixel-size") == "", "that of the sample"
    found.context.close()


def test_a_file_of_another_build_is_refused_once(browser, built, served, tmp_path):
    """A visit while the page is being uploaded: the list is new, the model still the old one."""
    page = Path(shutil.copytree(built, tmp_path / "page"))
    model = page / "image_encoder.onnx"
    content = model.read_bytes()
    model.write_bytes(flipped(content))
    found = Visit(browser, served(page).address)
    found.until("document.body.dataset.state === 'refused'")
    assert "its SHA-256 differs. Reload the page" in found.page.inner_text("#refused")
    uploaded = model.stat().st_mtime
    model.write_bytes(content)
    os.utime(model, (uploaded + 2, uploaded + 2))  # Last-Modified counts in whole seconds
    found.page.reload()
    found.until("document.body.dataset.readings")
    found.context.close()


def changed(name, edit):
    """Return a route that edits the body of one file."""

    def change(route):
        path = route.request.url.split("?")[0]
        if not path.endswith(f"/{name}"):
            return route.continue_()
        response = route.fetch()
        return route.fulfill(response=response, body=edit(response.body()))

    return change


def flipped(content):
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_changed_model_is_refused(browser, address):
    found = Visit(browser, address, changed("image_encoder.onnx", flipped), service_workers="block")
    found.until("document.body.dataset.state === 'refused'")
    text = found.page.inner_text("#refused")
    assert "image_encoder.onnx is not the file of this build: its SHA-256 differs" in text
    assert not found.page.is_visible("#open")
    assert found.readings == 0
    found.context.close()


@pytest.mark.slow
def test_a_failed_self_test_is_refused(browser, address, built):
    """A build whose golden limit no computation reaches, with digests that are right."""
    golden = json.loads((built / "golden" / "golden.json").read_text())
    golden["cosine_min_from_frame"] = 1.5
    content = json.dumps(golden).encode()

    def change(route):
        path = route.request.url.split("?")[0]
        if path.endswith("/golden.json"):
            return route.fulfill(body=content)
        if path.endswith("/demo.json"):
            facts = json.loads((built / "demo.json").read_text())
            facts["files"]["golden/golden.json"] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            return route.fulfill(json=facts)
        return route.continue_()

    found = Visit(browser, address, change, service_workers="block")
    found.until("document.body.dataset.state === 'refused'")
    assert "self-test failed: frame_0.png has cosine" in found.page.inner_text("#refused")
    assert found.readings == 0
    found.context.close()


def test_webgpu_in_the_address_that_fails_starts_webassembly(browser, address):
    def change(route):
        route.abort() if "ort.webgpu" in route.request.url else route.continue_()

    found = Visit(browser, f"{address}?runtime=webgpu&threads=1.5", change, service_workers="block")
    found.until("document.body.dataset.readings")
    assert found.page.inner_text("#notice").endswith("WebAssembly is used instead of WebGPU.")
    assert found.page.input_value("#runtime") == "wasm"
    threads = found.page.evaluate("Math.min(navigator.hardwareConcurrency, 4)")
    assert f"WebAssembly, {threads} thread" in found.page.inner_text("#facts")
    found.context.close()


@pytest.mark.slow
def test_another_runtime_that_fails_leaves_the_former_in_use(browser, address, built):
    facts = json.loads((built / "demo.json").read_text())
    facts["variants"] = {"onnx-fp32": facts["variants"]["onnx-fp32"], "onnx-int8": facts["heads"]}  # no model

    def change(route):
        route.fulfill(json=facts) if route.request.url.endswith("/demo.json") else route.continue_()

    found = Visit(browser, address, change, service_workers="block")
    found.until("document.body.dataset.readings")
    found.page.select_option("#weights", "onnx-int8")
    found.until("document.getElementById('notice').textContent.includes('The previous runtime stays in use')")
    found.after(lambda: None)
    assert found.page.input_value("#weights") == "onnx-fp32"
    found.context.close()


@pytest.mark.slow
def test_without_the_headers_one_thread_is_enough(browser, built, tmp_path):
    """A static host such as GitHub Pages sets none."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built)))
    Thread(target=server.serve_forever, daemon=True).start()
    found = Visit(browser, f"http://127.0.0.1:{server.server_port}/")
    found.until("document.body.dataset.readings")
    assert "WebAssembly, 1 thread." in found.page.inner_text("#facts")
    assert found.errors == []
    found.context.close()
    server.shutdown()
    server.server_close()
