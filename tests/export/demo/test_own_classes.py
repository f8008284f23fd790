"""Labels that a visitor types on the demo page, scored in headless Chromium by the export's text tower."""

import csv
import re

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from scipy.special import softmax

from models import build_tokenizer, load_student
from models.text.tokenizer import fetal_vocabulary
from tests.export.demo.test_page_faults import rebuilt
from tests.export.demo.visit import Visit, needs_chromium

pytestmark = needs_chromium
LABELS = ["fetal head", "Größe 24.5 <b>", "xylophone " * 9]
PROMPT = "a view of {label}, {label}"


@pytest.fixture(scope="module")
def visit(browser, address):
    """One visit, whose tests follow each other."""
    found = Visit(browser, address)
    found.until("document.body.dataset.readings")
    found.page.wait_for_load_state("networkidle")
    found.requests.clear()
    yield found
    found.context.close()


def score(visit, labels, prompt=PROMPT):
    visit.page.fill("#own-labels", "\n".join(labels))
    visit.page.fill("#own-prompt", prompt)
    visit.after(lambda: visit.page.click("#own-score"))


def status(visit):
    return visit.page.inner_text("#own-status")


def own_card(visit):
    """Return the names of the card's bars, where one is shown."""
    return visit.page.evaluate(
        """[...document.querySelectorAll("#classes article:not([hidden])")]
          .filter((one) => one.querySelector("h2").textContent === "Your own classes")
          .flatMap((one) => [...one.querySelectorAll("li span:first-child")].map((name) => name.textContent))"""
    )


def test_what_cannot_be_scored_is_named_before_anything_is_loaded(visit):
    assert re.search(r"the text tower is loaded, 0\.\d MB", status(visit))
    for labels, prompt, wanted in (
        (["brain", " ", "brain "], PROMPT, "at least two labels"),
        (["a", "b"], "of the label", "The prompt needs {label}"),
        (["a", "b" * 101], PROMPT, "has more than 100 characters"),
        ([str(number) for number in range(51)], PROMPT, "51 labels, at most 50"),
    ):
        visit.page.fill("#own-labels", "\n".join(labels))
        visit.page.fill("#own-prompt", prompt)
        visit.page.click("#own-score")
        assert wanted in status(visit)
    assert own_card(visit) == []
    assert visit.requests == []


def test_the_text_tower_is_loaded_and_what_the_student_cannot_read_is_named(visit):
    score(visit, [*LABELS, "", LABELS[0]])
    names = [label.strip() for label in LABELS]
    assert own_card(visit) == names, "as they were typed, each once"
    assert status(visit).startswith("3 labels are scored.")
    assert f"the end was cut off: {names[2]}." in status(visit)
    assert status(visit).endswith("their meaning: gro, xylophone.")
    loaded = sorted(url.split("?")[0].rpartition("/")[2] for url in visit.requests)
    assert loaded == ["text_encoder.onnx", "text_golden.json", "tokenizer.json"]


def test_typed_labels_have_the_probabilities_of_python(visit, frames, exported, tmp_path):
    chosen = frames[::6]
    embeddings = load_student(exported.folder).embed([np.asarray(Image.open(frame)) for frame in chosen])
    session = onnxruntime.InferenceSession(exported.artifact("onnx-text"), providers=["CPUExecutionProvider"])

    def logits(labels):
        tokens = build_tokenizer(exported.preprocessing)([PROMPT.replace("{label}", name) for name in labels])
        vectors = session.run(None, {"tokens": tokens.numpy()})[0]
        return 100 * embeddings @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T

    # To the untrained student most labels are far apart: four whose probabilities are neither 0 nor 1.
    words = [f"{one} {two}" for one in fetal_vocabulary() for two in ("", "plane", "head") if len(one) == 5]
    words = [words[place] for place in np.argsort(logits(words).mean(axis=0))]
    means = logits(words).mean(axis=0)
    start = int(np.argmin(means[3:] - means[:-3]))
    labels = [word.strip() for word in words[start : start + 4]]
    wanted = softmax(logits(labels), axis=1)
    assert np.ptp(wanted) > 0.1
    assert wanted.max(axis=1).min() < 0.99
    score(visit, labels)
    visit.after(lambda: visit.page.set_input_files("#files", chosen), len(chosen))
    with visit.saved("#save-table", tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[-len(chosen) :]
    found = [[float(row[f"own_{name}"]) for name in labels] for row in rows]
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert [row["own"] for row in rows] == [labels[best] for best in np.argmax(found, axis=1)]


def test_other_labels_need_no_request_also_by_keyboard_live_and_frozen(visit):
    visit.requests.clear()
    visit.page.fill("#own-labels", "one\ntwo")
    for _ in range(2):
        visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.id") == "own-score"
    visit.after(lambda: visit.page.keyboard.press("Enter"))
    assert own_card(visit) == ["one", "two"]
    visit.after(lambda: visit.page.click("#camera"), 3)
    assert own_card(visit) == ["one", "two"]
    score(visit, ["three", "four"])
    visit.until("document.getElementById('classes').textContent.includes('three')")
    visit.page.click("#freeze")
    score(visit, ["five", "six"])
    visit.until("document.getElementById('classes').textContent.includes('five')")
    assert own_card(visit) == ["five", "six"]
    visit.page.click("#stop")
    assert [url for url in visit.requests if not url.startswith("blob:")] == []


def test_another_runtime_keeps_the_labels_until_they_are_removed(visit, frames):
    visit.after(lambda: visit.page.set_input_files("#files", frames[0]))
    # The picture is read when the new worker is ready, and again when it knows the labels.
    visit.after(lambda: visit.page.select_option("#threads", "1"), 2)
    assert "WebAssembly, 1 thread." in visit.page.inner_text("#facts")
    assert own_card(visit) == ["five", "six"]
    visit.after(lambda: visit.page.click("#own-end"))
    assert own_card(visit) == []
    assert not visit.page.is_visible("#own-end")
    assert visit.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("part", ["cosine", "tokens"])
def test_a_failed_self_test_of_the_text_tower_is_refused(browser, address, built, part):
    def edit(golden):
        if part == "cosine":
            golden["cosine_min"] = 1.5
        else:
            golden["rows"][1]["tokens"][3] += 1

    change = rebuilt(built, text_golden=edit)
    found = Visit(browser, address, change, service_workers="block")
    found.until("document.body.dataset.readings")
    found.page.click("#own-score")
    found.until("document.getElementById('own-status').classList.contains('wrong')")
    assert f"has {'cosine 1.0000' if part == 'cosine' else 'other tokens'}" in status(found)
    assert own_card(found) == []
    found.context.close()


@pytest.mark.slow
def test_no_form_without_a_known_tokenizer(browser, address, built):
    change = rebuilt(built, demo=lambda facts: facts.update(text={}))
    found = Visit(browser, address, change, service_workers="block")
    found.until("document.body.dataset.readings")
    assert found.page.is_visible("#own")
    assert not found.page.is_visible("#own-labels")
    assert status(found) == "This student's tokenizer is not supported in the page."
    assert [error for error in found.errors if "blocked by Playwright" not in error] == []
    found.context.close()
