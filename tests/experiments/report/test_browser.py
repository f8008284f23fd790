"""The report in a real browser: no errors, no sideways scrolling, both themes, on paper."""

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Open a file in a window of a width; what the browser complains about fails the test."""
    pages, complaints = [], []

    def visit(path: Path, width=1280, height=900, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        pages.append(page)
        for event in ("console", "pageerror"):
            page.on(event, lambda said: complaints.append(getattr(said, "text", str(said))))
        page.goto(path.as_uri())
        return page

    visit.complaints = complaints
    yield visit
    for page in pages:
        page.close()
    assert complaints == []


def test_a_console_error_would_be_seen(visit, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<script>console.error('seen'); throw Error('this too')</script>")
    visit(broken)
    assert visit.complaints == ["seen", "this too"]
    visit.complaints.clear()


def test_screenshots_in_both_themes(visit, comparison_page):
    shades = {}
    for theme in ("light", "dark"):
        shot = visit(comparison_page, height=3000, color_scheme=theme).screenshot()
        picture = Image.open(io.BytesIO(shot)).convert("L")
        assert picture.size == (1280, 3000)
        shades[theme] = float(np.median(np.asarray(picture)))
    assert shades["light"] > 230
    assert shades["dark"] < 40


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (390, "screen"), (688, "print")])
def test_page_and_tables_are_no_wider_than_the_window(visit, comparison_page, width, media):
    """A box scrolls on a screen, but what is beyond it is not on the paper, of which A4 is the narrower."""
    page = visit(comparison_page, width)
    page.emulate_media(media=media)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate(
        "[...document.querySelectorAll('.scroll')].map("
        "box => [box.textContent.trim().slice(0, 30), box.scrollWidth - box.clientWidth])"
    )
    assert len(boxes) >= 10
    assert [box for box in boxes if box[1] > 0] == []


def test_it_prints(visit, comparison_page):
    pdf = visit(comparison_page).pdf()
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 30
