"""The demo page with LiteRT.js in place of ONNX Runtime, in headless Chromium."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from export import export_student
from export.demo.build import build_demo
from export.graphs.litert_file import litert_installed
from export.runners import NO_LITERT
from models import load_student
from tests.export.demo.visit import Visit, needs_chromium
from tests.export.test_litert import OPTIONS

pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.skipif(not litert_installed(), reason=NO_LITERT),
]


@pytest.fixture(scope="module")
def export(subject, tmp_path_factory):
    return export_student(
        subject, tmp_path_factory.mktemp("litert") / "export", replace(OPTIONS, text_encoder=True)
    )


@pytest.fixture(scope="module")
def address(export, served):
    return served(build_demo(export.folder, export.folder.parent / "page")).address


@pytest.fixture
def visit(browser, address):
    found = Visit(browser, f"{address}?runtime=litert")
    found.until("document.body.dataset.readings")
    yield found
    assert found.errors == []
    found.context.close()


def test_frames_have_the_answers_of_python(visit, export, frames, tmp_path):
    assert visit.page.inner_text("#facts").startswith("LiteRT.js 2.5.3, WebAssembly, 1 thread. ")
    visit.after(lambda: visit.page.set_input_files("#files", frames), 50)
    with visit.saved("#save-table", tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[-50:]
    wanted = load_student(export.folder).planes([np.asarray(Image.open(frame)) for frame in frames])
    for row, answer in zip(rows, wanted, strict=True):
        for name, value in answer.items():
            if name.startswith("plane_"):
                assert float(row[name]) == pytest.approx(value, abs=1e-3)
    assert not [url for url in visit.requests if "/ort/" in url]


def test_labels_are_scored_by_onnx_runtime(visit):
    visit.page.fill("#own-labels", "brain\nfemur")
    visit.after(lambda: visit.page.click("#own-score"))
    assert visit.page.inner_text("#own-status").startswith("2 labels are scored.")
    assert any(url.split("?")[0].endswith("ort-wasm-simd-threaded.wasm") for url in visit.requests)


def test_weights_are_those_of_the_runtime(visit):
    assert visit.page.evaluate("[...document.querySelectorAll('#weights option')].map((one) => one.value)") == [
        "litert-fp32", "litert-int8",
    ]  # fmt: skip
    visit.page.select_option("#weights", "litert-int8")
    visit.after(lambda: visit.until("document.getElementById('weights').value === 'litert-int8'"))
    visit.page.select_option("#runtime", "wasm")
    visit.until(
        "document.getElementById('facts').textContent.startsWith('ONNX Runtime Web 1.30.0, WebAssembly')"
    )


def test_the_second_visit_needs_no_network(browser, address):
    found = Visit(browser, f"{address}?runtime=litert")
    found.until("document.body.dataset.readings")
    found.page.wait_for_load_state("networkidle")
    found.context.set_offline(True)
    found.page.reload()
    found.until("document.body.dataset.readings")
    assert found.page.inner_text("#facts").startswith("LiteRT.js")
    found.context.close()
