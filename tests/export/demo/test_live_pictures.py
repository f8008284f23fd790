"""Videos, screens and parts of live pictures on the demo page, in headless Chromium."""

from base64 import b64decode
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.export.demo.visit import HEIGHT, WIDTH, needs_chromium

pytestmark = needs_chromium


def film(path, frames):
    """Write a video of frames, a twentieth of a second each."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"VP80"), 20, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(cv2.imread(str(frame)))
    writer.release()


def test_a_part_of_a_live_picture_is_read(visit, frames, tmp_path):
    film(tmp_path / "still.webm", frames[:1] * 20)
    visit.after(lambda: visit.page.set_input_files("#files", tmp_path / "still.webm"), 2)
    visit.page.click("#crop")
    visit.page.keyboard.press("Escape")
    assert visit.page.evaluate("document.activeElement.id") == "crop"
    visit.page.click("#crop")
    # By keyboard: a corner 100 pixels to the right of the middle and 50 below, and one beyond the left edge.
    for keys in ({"Right": 10, "Down": 5}, {"Left": 40, "Up": 20}):
        for direction, number in keys.items():
            for _ in range(number):
                visit.page.keyboard.press(f"Shift+Arrow{direction}")
        visit.page.keyboard.press("Enter")
    visit.after(lambda: None, 3)
    url = visit.page.evaluate("document.getElementById('frame').toDataURL()")
    found = np.asarray(Image.open(BytesIO(b64decode(url.partition(",")[2]))).convert("L"))
    part = np.asarray(Image.open(frames[0]))[HEIGHT // 2 - 150 : HEIGHT // 2 + 50, : WIDTH // 2 + 100]
    assert found.shape == part.shape
    assert np.corrcoef(found.ravel(), part.ravel())[0, 1] > 0.9, "the film is compressed"
    visit.page.click("#freeze")
    visit.page.click("#crop")  # now "Whole picture"
    visit.until(f"document.getElementById('frame').width === {WIDTH}")
    assert visit.page.get_attribute("#freeze", "aria-pressed") == "false"
    visit.page.click("#stop")


def test_a_live_picture_that_stands_still_is_read_again(visit):
    visit.after(lambda: visit.page.click("#camera"), 2)
    visit.page.evaluate("document.getElementById('video').requestVideoFrameCallback = () => 0")
    visit.page.wait_for_timeout(500)
    visit.after(lambda: visit.enter("#pixel-size", "0.2"))
    visit.page.click("#freeze")
    visit.after(lambda: visit.page.click("#freeze"))
    visit.enter("#pixel-size", "")
    visit.page.click("#measure")
    assert visit.page.get_attribute("#freeze", "aria-pressed") == "true", "what is measured stands still"
    visit.page.keyboard.press("Escape")
    visit.page.evaluate(
        "document.getElementById('video').srcObject.getVideoTracks()[0].dispatchEvent(new Event('ended'))"
    )
    assert visit.page.inner_text("#notice") == "Camera: the browser or the device ended it."
    assert not visit.page.is_visible("#stop")
    visit.page.evaluate("delete document.getElementById('video').requestVideoFrameCallback")


@pytest.mark.slow
def test_video_and_screen(visit, frames, tmp_path):
    film(tmp_path / "film.webm", [frame for frame in frames[:10] for _ in range(4)])
    visit.after(
        lambda: visit.page.set_input_files("#files", tmp_path / "film.webm"), 60
    )  # also from the start again
    for text in ("Play", "Pause"):
        visit.page.click("#play")
        assert visit.page.inner_text("#play") == text
    assert visit.page.inner_text("#source-name") == "film.webm"
    visit.until("document.getElementById('speed').textContent.includes('frames/s')")
    visit.page.click("#screen")  # the film is read on until the screen is allowed
    visit.until("document.getElementById('source-name').textContent === 'Screen'")
    visit.after(lambda: None, 2)
    visit.page.click("#stop")
