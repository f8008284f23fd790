"""The demo page offline, changed, with a failing self-test, and on a host without the headers."""

import csv
import hashlib
import json
import os
import re
import shutil
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

from models import load_student
from tests.conftest import wait_until
from tests.export.demo.visit import WIDTH, Visit, needs_chromium

pytestmark = needs_chromium


def kept(*texts):
    """Return the question whether for each text the browser keeps a file whose address contains it."""
    return f"""(async () => {{
      const all = await Promise.all((await caches.keys()).map(async (name) => (await caches.open(name)).keys()));
      return {json.dumps(texts)}.every((text) => all.flat().some(({{ url }}) => url.includes(text)));
    }})()"""


def entry(content):
    """Return what a page's list says of a file with this content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def verified(page):
    """Return what the worker verifies at load, as the ends of addresses."""
    facts = json.loads((page / "demo.json").read_text())
    golden = [name for name in facts["files"] if name.startswith("golden/")]
    names = [
        "ort/ort-wasm-simd-threaded.wasm",
        "image_encoder.onnx",
        facts["heads"],
        "manifest.json",
        *golden,
    ]
    return [f"/{name}?v={facts['files'][name]['sha256']}" for name in names]


def test_the_second_visit_needs_no_network_also_of_a_page_below_another(browser, built, served, tmp_path):
    upper = Path(shutil.copytree(built, tmp_path / "site"))
    lower = Path(shutil.copytree(built, upper / "b"))
    facts = json.loads((lower / "demo.json").read_text())
    (lower / "MODEL_CARD.md").write_text("# Another model card")
    facts["files"]["MODEL_CARD.md"] = entry((lower / "MODEL_CARD.md").read_bytes())
    (lower / "demo.json").write_text(json.dumps(facts))
    server = served(upper)
    addresses = {server.address: "Model card", f"{server.address}b/": "Another model card"}
    found = Visit(browser, server.address)
    found.until("document.body.dataset.readings")
    found.after(lambda: found.page.click("#own-score"))
    found.until(kept("text_encoder.onnx", "tokenizer.json", "text_golden.json"))
    for address in addresses:
        if address != server.address:
            found.page.goto(address)
            found.until("document.body.dataset.readings")
        found.page.wait_for_load_state("networkidle")
        found.until(kept(*(f"{address.rstrip('/')}{name}" for name in verified(built))))
    server.shutdown()
    server.server_close()
    found.errors.clear()
    for address, title in addresses.items():
        found.page.goto(address)
        found.until("document.body.dataset.readings")
        assert "resize equal to training's" in found.page.inner_text("#facts")
        if address == server.address:
            found.after(lambda: found.page.click("#own-score"))
            assert "4 labels are scored" in found.page.inner_text("#own-status")
        found.page.click('[data-document="MODEL_CARD.md"]')
        found.until(f"document.getElementById('document-text').textContent.includes('{title}')")
    assert found.errors == []
    stored = found.page.evaluate(
        """async (scope) => (await (await caches.open(`sonodistill-demo ${scope}`)).keys()).map(({ url }) => url)""",
        server.address,
    )
    assert len(stored) > 20
    assert not [url for url in stored if url.startswith(f"{server.address}b/")]
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


def upload(file, content):
    """Replace a file; Last-Modified counts in whole seconds."""
    file.write_bytes(content)
    os.utime(file, (time.time() + 2, time.time() + 2))


@pytest.fixture(scope="module")
def uploaded(browser, built, served, tmp_path_factory):
    """A page, its visit, and what that said while the page was being uploaded: a new list, a model of another build."""
    page = Path(shutil.copytree(built, tmp_path_factory.mktemp("upload") / "page"))
    model = page / "image_encoder.onnx"
    content = model.read_bytes()
    model.write_bytes(flipped(content))
    found = Visit(browser, served(page).address)
    found.until("document.body.dataset.state === 'refused'")
    refused = found.page.inner_text("#refused"), found.page.is_visible("#open"), found.readings
    upload(model, content)
    found.page.reload()
    found.until("document.body.dataset.readings")
    yield page, found, refused
    found.context.close()


def test_a_file_of_another_build_is_refused_once(uploaded):
    said, can_open, readings = uploaded[2]
    assert "image_encoder.onnx is not the file of this build: its SHA-256 differs. Reload the page" in said
    assert (can_open, readings) == (False, 0)


def test_a_kept_file_that_was_changed_is_refused_once(uploaded):
    _, found, _ = uploaded
    found.until(kept("image_encoder.onnx"))
    found.page.evaluate(
        """async () => {
          const [name] = await caches.keys(), store = await caches.open(name);
          const model = (await store.keys()).find(({ url }) => url.includes("image_encoder.onnx"));
          await store.put(model, new Response("another model"));
        }"""
    )
    found.page.reload()
    found.until("document.body.dataset.state === 'refused'")
    assert "image_encoder.onnx is not the file of this build" in found.page.inner_text("#refused")
    found.page.reload()
    found.until("document.body.dataset.readings")


def test_a_page_that_was_built_again_is_shown_and_the_older_files_are_removed(uploaded):
    page, found, _ = uploaded
    facts = json.loads((page / "demo.json").read_text())
    old = facts["files"]["MODEL_CARD.md"]["sha256"]
    found.until(kept(old))
    card = b"# Another model card"
    facts["files"]["MODEL_CARD.md"] = entry(card)
    facts["samples"][0]["title"] = "another title"
    upload(page / "MODEL_CARD.md", card)
    upload(page / "demo.json", json.dumps(facts).encode())
    found.page.reload()
    found.until("document.body.dataset.readings")
    assert found.page.inner_text("#source-name") == "Sample, simulated: another title"
    found.until(f"{kept(old)}.then((answer) => !answer)")


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


def rebuilt(built, **edits):
    """Return a route to a build whose JSON files were edited, with digests that are right; `demo` edits its list."""
    paths = {
        "golden": "golden/golden.json",
        "manifest": "manifest.json",
        "text_golden": "text/text_golden.json",
    }
    facts, bodies = json.loads((built / "demo.json").read_text()), {}
    edits.pop("demo", lambda _: None)(facts)
    for name, edit in edits.items():
        given = json.loads((built / paths[name]).read_text())
        edit(given)
        bodies[paths[name]] = json.dumps(given).encode()
        facts["files"][paths[name]] = entry(bodies[paths[name]])
    bodies["demo.json"] = json.dumps(facts).encode()

    def change(route):
        path = route.request.url.split("?")[0]
        body = next((body for name, body in bodies.items() if path.endswith(f"/{name}")), None)
        return route.continue_() if body is None else route.fulfill(body=body)

    return change


@pytest.mark.slow
def test_a_failed_self_test_is_refused(browser, address, built):
    """A build whose golden limit no computation reaches, with digests that are right."""
    change = rebuilt(built, golden=lambda golden: golden.update(cosine_min_from_frame=1.5))
    found = Visit(browser, address, change, service_workers="block")
    found.until("document.body.dataset.state === 'refused'")
    assert "self-test failed: frame_0.png has cosine" in found.page.inner_text("#refused")
    assert found.readings == 0
    found.context.close()


def test_a_calibrated_student_with_weights_and_threads_of_the_address_rejects_and_has_intervals(
    browser, address, built, frames, tmp_path
):
    """Limits that reject every plane, and an interval of all ages; the picture is higher than wide.

    int8 has golden limits of its own; no computation reaches those of float32 here.
    """
    answers = {"none_below": {"planes": 1e6}, "age_drop": 1e6, "coverage": 0.8}
    change = rebuilt(
        built,
        manifest=lambda manifest: manifest.update(answers=answers),
        golden=lambda golden: golden.update(cosine_min_from_frame=1.5),
    )
    found = Visit(browser, f"{address}?weights=onnx-int8&threads=1", change, service_workers="block")
    Image.open(frames[0]).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "high.png")

    def said():
        return found.page.inner_text("#age-text")

    found.until("document.body.dataset.readings")
    assert found.page.input_value("#weights") == "onnx-int8"
    assert "WebAssembly, 1 thread." in found.page.inner_text("#facts")
    (model,) = [url for url in found.requests if ".onnx" in url]
    assert "/image_encoder_int8.onnx?" in model
    found.after(lambda: found.page.set_input_files("#files", tmp_path / "high.png"))
    assert said() == "Needs the pixel size of the picture."
    found.after(lambda: found.enter("#pixel-size", str(0.30 * 64 / WIDTH)))
    assert said() == "The plane is not the brain."
    assert found.page.locator("#classes h2").all_inner_texts() == ["Plane"], "no sub-plane"
    assert found.page.inner_text("#classes .answer") == "none of these"
    found.after(lambda: found.page.check("#every-age"))
    assert said().startswith(
        "14 w 0 d to 38 w 6 d; such intervals hold the age of 80 % of patients. The WHO chart"
    )
    assert 38 <= float(found.page.get_attribute("#chart .marker", "cx")) <= 412, "inside of the chart"
    with found.saved("#save-table", tmp_path / "table.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert row["plane"] == "none"
    assert [row[f"ga_{name}"] for name in ("low_days", "high_days", "coverage", "spacing_mm")] == [
        "98", "272", "0.8", "0.3",
    ]  # fmt: skip
    assert (
        found.page.inner_text("#age")
        == row["ga"]
        == f"{int(row['ga_days']) // 7} w {int(row['ga_days']) % 7} d"
    )
    found.until("document.getElementById('legend').textContent === 'none of these 100 %'")
    found.after(lambda: found.enter("#pixel-size", str(0.31 * 64 / WIDTH)))
    assert said().startswith("The export's age table has no row for 0.31 mm")
    found.context.close()


def test_a_brain_plane_has_a_sub_plane_and_an_age_also_without_a_text_tower(
    browser, address, built, exported
):
    """The untrained student answers "brain" seldom: the page has what it answers as the name of the brain."""
    picture = np.asarray(Image.open(built / "samples" / "sample_0.png"))
    plane = load_student(exported.folder).planes([picture])[0]["plane"]
    change = rebuilt(
        built, demo=lambda facts: facts.update(text=None, brain=facts["brain"] | {"label": plane})
    )
    found = Visit(browser, address, change, service_workers="block")
    found.until("document.body.dataset.readings")
    assert found.page.locator("#classes h2").all_inner_texts() == ["Plane", "Brain sub-plane"]
    found.after(lambda: found.enter("#pixel-size", str(0.30 * 64 / max(picture.shape[:2]))))
    assert re.fullmatch(r"\d\d w \d d", found.page.inner_text("#age"))
    assert found.page.inner_text("#age-text").startswith("The WHO chart expects")
    assert not found.page.is_visible("#own")
    assert [error for error in found.errors if "blocked by Playwright" not in error] == []
    found.context.close()


def test_webgpu_in_the_address_that_fails_starts_webassembly_and_a_changed_text_tower_is_refused(
    browser, address
):
    flip = changed("text_encoder.onnx", flipped)

    def change(route):
        route.abort() if "ort.webgpu" in route.request.url else flip(route)

    found = Visit(browser, f"{address}?runtime=webgpu&threads=1.5", change, service_workers="block")
    found.until("document.body.dataset.readings")
    assert found.page.inner_text("#notice").endswith("ONNX Runtime with WebAssembly is used instead.")
    assert found.page.input_value("#runtime") == "wasm"
    threads = found.page.evaluate("Math.min(navigator.hardwareConcurrency, 4)")
    assert f"WebAssembly, {threads} thread" in found.page.inner_text("#facts")
    found.page.click("#own-score")
    found.until("document.getElementById('own-status').classList.contains('wrong')")
    refused = found.page.inner_text("#own-status")
    assert "text_encoder.onnx is not the file of this build: its SHA-256 differs" in refused
    found.after(lambda: found.page.click("#samples button >> nth=1"))
    assert "Your own classes" not in found.page.locator("#classes h2").all_inner_texts()
    found.context.close()


@pytest.mark.slow
def test_another_runtime_that_fails_leaves_the_former_in_use(browser, address, built):
    change = rebuilt(
        built, demo=lambda facts: facts["variants"].update({"onnx-int8": facts["heads"]})
    )  # no model
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
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    found = Visit(browser, f"http://127.0.0.1:{server.server_port}/")
    found.until("document.body.dataset.readings")
    assert "WebAssembly, 1 thread." in found.page.inner_text("#facts")
    assert found.errors == []
    found.context.close()
    server.shutdown()
    server.server_close()
