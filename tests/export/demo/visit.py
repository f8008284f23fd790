"""A visit to the demo page in headless Chromium."""

import base64
import shutil
import time
from pathlib import Path

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)"
)
WIDTH, HEIGHT = 480, 324
"""Size of the frames."""
SECONDS = 60


class Visit:
    """An open page, and what it asked for and complained about."""

    def __init__(self, browser, address, change=None, **settings):
        self.context = browser.new_context(viewport={"width": 1280, "height": 1000}, **settings)
        self.page = self.context.new_page()
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        if change:
            self.page.route("**/*", change)
        self.page.goto(address)

    def until(self, question):
        """Wait until a question about the page, in JavaScript, is answered with yes."""
        end = time.monotonic() + SECONDS
        while not (answer := self.page.evaluate(question)):
            assert time.monotonic() < end, f"{question}: {self.page.inner_text('body')}"
            time.sleep(0.05)
        return answer

    @property
    def readings(self):
        return int(self.page.get_attribute("body", "data-readings") or 0)

    def after(self, act, number=1):
        """Act, and wait for a number of new readings."""
        before = self.readings
        act()
        self.until(f"Number(document.body.dataset.readings ?? 0) >= {before + number}")

    def enter(self, field, text):
        """Type into a field and end with Enter."""
        self.page.fill(field, text)
        self.page.press(field, "Enter")

    def ask_for_cameras(self):
        """Have the browser ask before it gives a camera, until `allow()` or `deny()` is called in the page."""
        self.page.evaluate(
            """() => {
              const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
              navigator.mediaDevices.getUserMedia = (wanted) => new Promise((resolve, reject) => {
                window.allow = async () => resolve(window.given = await real(wanted));
                window.deny = () => reject(new DOMException("", "NotAllowedError"));
              });
            }"""
        )

    def saved(self, button, path):
        with self.page.expect_download() as download:
            self.page.click(button)
        download.value.save_as(path)
        return path

    def give(self, kind, file):
        """Drop or paste a file."""
        content = base64.b64encode(Path(file).read_bytes()).decode()
        self.page.evaluate(
            """([kind, name, content]) => {
              const data = new DataTransfer();
              const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
              data.items.add(new File([bytes], name, { type: "image/png" }));
              const settings = { bubbles: true, cancelable: true };
              if (kind === "drop") dispatchEvent(new DragEvent("dragenter", settings));
              window.hovered = !document.getElementById("drop").hidden;
              dispatchEvent(kind === "drop" ? new DragEvent("drop", { ...settings, dataTransfer: data })
                : new ClipboardEvent("paste", { ...settings, clipboardData: data }));
            }""",
            [kind, Path(file).name, content],
        )
