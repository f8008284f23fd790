"""The demo page when it was built again, when the host or the runtime fails, and for those who use no pointer."""

import json
import re
import shutil
from functools import partial

import pytest

from export.demo import build
from tests.export.demo.test_page_faults import changed, kept, verified
from tests.export.demo.visit import Visit, needs_chromium

pytestmark = needs_chromium
NO_ANSWER = 0
EMPTY = {"cards": 0, "age": "\u2013", "text": "", "spoken": "", "disabled": True}


def unreliable(server):
    """Let a server answer paths that match a pattern of `faults` with a status."""
    handler, server.faults = server.RequestHandlerClass, {}

    class Faulty(handler.func):
        def do_GET(self):
            faults = [status for path, status in server.faults.items() if re.search(path, self.path)]
            if not faults:
                super().do_GET()
            elif faults != [NO_ANSWER]:
                self.send_error(faults[0])

    server.RequestHandlerClass = partial(Faulty, **handler.keywords)
    return server


@pytest.fixture
def built_as(exported, built, tmp_path, monkeypatch):
    """Build a page whose scripts `app.js` and `view.js` say which build they belong to."""

    def samples(folder):
        shutil.copytree(built / "samples", folder)
        return json.loads((built / "demo.json").read_text())["samples"]

    def write(number):
        static = shutil.copytree(build.STATIC, tmp_path / f"static_{number}")
        for name in ("app", "view"):
            with (static / f"{name}.js").open("a") as file:
                file.write(f'document.body.dataset.{name} = "{number}";\n')
        with monkeypatch.context() as patch:
            patch.setattr(build, "STATIC", static)
            patch.setattr(build, "_write_samples", samples)
            return build.build_demo(exported.folder, tmp_path / "page")

    return write


def scripts(visit):
    """Return the builds of the two scripts that ran."""
    return visit.page.evaluate("[document.body.dataset.app, document.body.dataset.view]")


def build_of(page):
    return json.loads((page / "demo.json").read_text())["build"]


def test_builds_never_mix_and_the_kept_one_opens_while_the_host_fails(browser, served, built_as):
    page = built_as(1)
    server = unreliable(served(page))
    found = Visit(browser, server.address)
    found.until("Boolean(document.body.dataset.readings && navigator.serviceWorker.controller)")
    found.until(kept(*verified(page)))
    first = build_of(page)
    built_as(2)
    assert build_of(page) != first
    server.faults = {"/view.js": NO_ANSWER}
    found.page.reload()
    assert scripts(found) == [None, None]
    for status in (NO_ANSWER, 404, 503):
        server.faults = {".": status}
        found.page.reload()
        found.until("document.body.dataset.readings")
        assert scripts(found) == ["1", "1"]
    server.faults = {}
    found.page.reload()
    found.until("document.body.dataset.readings")
    assert scripts(found) == ["2", "2"], "at once"
    names = f"`sonodistill-demo {server.address}`, `sonodistill-demo {server.address} {build_of(page)}`"
    found.until(f"caches.keys().then((found) => String(found.sort()) === String([{names}]))")
    server.faults = {".": NO_ANSWER}
    found.page.reload()
    found.until("document.body.dataset.readings")
    assert scripts(found) == ["2", "2"]
    found.context.close()


def test_what_cannot_be_fetched_is_named_and_one_visit_is_enough_for_all(browser, built, served):
    lost = ("/samples/sample_0.png", "/MODEL_CARD.md")

    def change(route):
        route.abort() if route.request.url.split("?")[0].endswith(lost) else route.continue_()

    server = unreliable(served(built))
    found = Visit(browser, server.address, change)
    notice = "document.getElementById('notice').textContent"
    found.until(f"{notice} === 'samples/sample_0.png cannot be fetched; reload the page.'")
    found.after(lambda: found.page.click("#samples button >> nth=1"))
    found.page.click('[data-document="MODEL_CARD.md"]')
    found.until(f"{notice} === 'MODEL_CARD.md cannot be fetched; reload the page.'")
    assert not found.page.is_visible("#document")
    assert not [error for error in found.errors if "ERR_FAILED" not in error]
    found.until("Boolean(navigator.serviceWorker.controller)")
    found.until(kept(*verified(built)))
    server.faults = {".": NO_ANSWER}
    found.page.unroute_all()
    found.page.reload()
    found.until("document.body.dataset.readings")
    found.until(
        """document.querySelectorAll("#samples img").length === 10
          && [...document.querySelectorAll("#samples img")].every((one) => one.naturalWidth)"""
    )
    assert found.page.inner_text("#source-name").startswith("Sample, simulated: ")
    found.page.click('[data-document="MODEL_CARD.md"]')
    found.until("document.getElementById('document-text').textContent.includes('Model card')")
    found.context.close()


def test_a_start_with_another_runtime_removes_the_files_of_older_builds(browser, address):
    def change(route):
        route.abort() if "ort.webgpu" in route.request.url else route.continue_()

    found = Visit(browser, address, change, service_workers="block")
    found.page.evaluate(
        """async () => (await caches.open(`sonodistill-demo ${location.href}`))
          .put("image_encoder.onnx?v=older", new Response("older"))"""
    )
    found.until(kept("v=older"))
    found.page.goto(f"{address}?runtime=webgpu")
    found.until("document.body.dataset.readings")
    assert found.page.inner_text("#notice").endswith("ONNX Runtime with WebAssembly is used instead.")
    found.until(f"{kept('v=older')}.then((answer) => !answer)")
    found.context.close()


def fail(visit, then="throw new Error('device lost')"):
    """Have the page's worker fail at every frame: the newest, an ended one may still be listed."""
    worker = [one for one in visit.page.workers if one.url.endswith("/worker.js")][-1]
    worker.evaluate(f"() => {{ self.createImageBitmap = async () => {{ {then}; }}; }}")


ANSWERS = """({
  cards: document.querySelectorAll("#classes article:not([hidden])").length,
  age: document.getElementById("age").textContent,
  text: document.getElementById("age-text").textContent,
  spoken: document.getElementById("spoken").textContent,
  disabled: document.getElementById("save-picture").disabled,
})"""


def test_a_picture_that_failed_has_no_answers_and_another_runtime_is_tried(browser, address, frames):
    """Here ONNX Runtime's build for WebGPU, which loses its device; it runs in WebAssembly."""
    change = changed(
        "worker.js",
        lambda body: body.replace(b"executionProviders: [runtime]", b'executionProviders: ["wasm"]'),
    )
    found = Visit(browser, f"{address}?runtime=webgpu", change, service_workers="block")
    found.until("document.body.dataset.readings && document.getElementById('spoken').textContent")
    assert found.page.input_value("#runtime") == "webgpu"
    assert found.page.is_enabled("#save-picture")
    fail(found)
    for number in (1, 2):
        found.give("drop", frames[number])
        name = f"frame_0{number}.png"
        found.until(f"document.getElementById('notice').textContent === '{name}: device lost.'")
        found.page.wait_for_timeout(600)  # the latest answer is spoken every quarter of a second
        assert found.page.evaluate(ANSWERS) == EMPTY
        assert found.page.get_attribute("#frame", "aria-label") == f"{name}. No answers"
        assert found.page.inner_text("#source-name") == name
    found.after(lambda: found.give("drop", frames[3]))
    assert found.page.input_value("#runtime") == "wasm"
    assert found.page.inner_text("#notice") == "device lost. ONNX Runtime with WebAssembly is used instead."
    assert found.page.get_attribute("#frame", "aria-label").startswith("frame_03.png. Plane: ")
    assert found.page.is_enabled("#save-picture")
    fail(found)
    for number in (4, 5, 6):
        found.give("drop", frames[number])
        found.until(f"document.getElementById('notice').textContent === 'frame_0{number}.png: device lost.'")
    found.until("document.body.dataset.state === 'refused'")
    assert "device lost." in found.page.inner_text("#refused")
    found.context.close()


@pytest.mark.parametrize("when", ["read", "decoded"])
def test_a_picture_has_no_answers_of_another_while_other_weights_load(browser, address, frames, when):
    held = []

    def hold(route):
        held.append(route) if "_int8.onnx" in route.request.url else route.continue_()

    found = Visit(browser, address, hold, service_workers="block")
    found.until("document.body.dataset.readings")
    if when == "read":
        fail(found, "await new Promise(() => {})")
    else:
        found.page.evaluate(
            """() => {
              const real = createImageBitmap, released = new Promise((resolve) => { window.release = resolve; });
              window.createImageBitmap = async (...given) => { await released; return real(...given); };
            }"""
        )
    found.give("drop", frames[0])
    if when == "read":
        found.until("document.getElementById('source-name').textContent === 'frame_00.png'")
    found.page.select_option("#weights", "onnx-int8")
    found.page.evaluate("window.release?.()")
    found.until("document.getElementById('frame').getAttribute('aria-label') === 'frame_00.png. No answers'")
    assert found.page.evaluate(ANSWERS) == EMPTY
    found.page.wait_for_timeout(300)
    held[0].continue_()
    found.after(lambda: None)
    assert found.page.get_attribute("#frame", "aria-label").startswith("frame_00.png. Plane: ")
    assert found.page.is_enabled("#save-picture")
    found.context.close()


def test_a_label_that_is_called_none_is_an_answer(visit, tmp_path):
    answer = "#classes article:last-child .answer"
    for other in ("xylophone", "femur", "24 weeks", "brain", "cervix"):
        visit.page.fill("#own-labels", f"none\n{other}")
        visit.after(lambda: visit.page.click("#own-score"))
        visit.until(f"document.getElementById('classes').textContent.includes('{other}')")
        if not visit.page.inner_text(answer).startswith(other):
            break
    assert re.fullmatch(r"none \d+ %", visit.page.inner_text(answer))
    assert re.search(r"Your own classes: none \(\d+ %\)", visit.page.get_attribute("#frame", "aria-label"))
    visit.after(lambda: visit.page.click("#own-end"))


def test_what_has_the_focus_is_not_below_the_header(visit):
    visit.page.set_viewport_size({"width": 1280, "height": 500})
    visit.page.focus('[data-document="LICENCES.md"]')
    seen = 0
    while visit.page.evaluate("document.activeElement !== document.body") and seen < 60:
        top, bottom, name = visit.page.evaluate(
            """[document.activeElement.getBoundingClientRect().top,
              document.querySelector("header").getBoundingClientRect().bottom, document.activeElement.outerHTML]"""
        )
        assert top >= bottom, name
        visit.page.keyboard.press("Shift+Tab")
        seen += 1
    assert seen > 20
    position = "getComputedStyle(document.querySelector('header')).position"
    for width, height, wanted in ((390, 800, "static"), (1280, 390, "static"), (1280, 1000, "sticky")):
        visit.page.set_viewport_size({"width": width, "height": height})
        assert visit.page.evaluate(position) == wanted


def test_a_pressed_button_keeps_its_name(visit):
    visit.after(lambda: visit.page.click("#camera"), 2)
    for pressed in ("true", "false"):
        visit.page.click("#freeze")
        assert visit.page.get_attribute("#freeze", "aria-pressed") == pressed
        assert visit.page.inner_text("#freeze") == "Freeze"
    visit.page.click("#stop")
