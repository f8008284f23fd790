"""The report in a real browser: no errors, no sideways scrolling, both themes, no JavaScript."""

import html
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


def browse(tmp_path: Path, page: Path | str, *options: str) -> subprocess.CompletedProcess[str]:
    profile = tmp_path / f"profile-{len(list(tmp_path.glob('profile-*')))}"
    address = page if isinstance(page, str) else page.as_uri()
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *options, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done


@pytest.fixture
def page(comparison_page) -> Path:
    return comparison_page


def test_a_console_error_would_be_seen(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<script>console.error('seen')</script>")
    with pytest.raises(AssertionError, match="seen"):
        browse(tmp_path, broken, "--dump-dom")


@pytest.mark.parametrize(("width", "height"), [(1280, 3000), (390, 6000)])
def test_screenshots_in_both_themes(page, tmp_path, width, height):
    shades = {}
    for theme, option in (("light", LIGHT), ("dark", DARK)):
        shot = tmp_path / f"{theme}.png"
        browse(tmp_path, page, f"--window-size={width},{height}", f"--screenshot={shot}", option)
        picture = Image.open(shot).convert("L")
        assert picture.size == (width, height)
        shades[theme] = float(np.median(np.asarray(picture)))
    assert shades["light"] > 230
    assert shades["dark"] < 40


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page, tmp_path, width):
    # In a frame, because a headless window is never narrower than 500 pixels when a script asks.
    probe = "document.title = `wide ${this.contentDocument.documentElement.scrollWidth}`"
    frame = tmp_path / "frame.html"
    content = html.escape(page.read_text(encoding="utf-8"), quote=True)
    frame.write_text(
        f'<title></title><iframe width="{width}" height="900" onload="{probe}" srcdoc="{content}"></iframe>',
        encoding="utf-8",
    )
    dom = browse(tmp_path, frame, "--window-size=1600,1000", "--dump-dom").stdout
    wide = re.search(r"<title>wide (\d+)</title>", dom)
    assert wide is not None
    assert int(wide.group(1)) <= width


@pytest.mark.parametrize(
    ("width", "media"), [(1280, "screen"), (390, "screen"), (718, "print"), (688, "print")]
)
def test_no_table_is_wider_than_its_box(page, tmp_path, width, media):
    """A box scrolls on a screen, but what is beyond it is not on the paper: A4's width or Letter's, less margins."""
    text = page.read_text(encoding="utf-8")
    if media == "print":
        # A browser without a printer shows that layout when it is told that it holds everywhere.
        assert text.count("@media print") == 1
        text = text.replace("@media print", "@media all").replace(
            "@media (max-width", "@media not all and (max-width"
        )
    probe = (
        "const all = [...this.contentDocument.querySelectorAll('.scroll')];"
        "const wide = all.filter(box => box.scrollWidth > box.clientWidth);"
        "document.title = `${wide.length} of ${all.length}: ${wide.map(box => box.textContent.trim().slice(0, 30))}`"
    )
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<title></title><iframe width="{width}" height="900" onload="{probe}" '
        f'srcdoc="{html.escape(text, quote=True)}"></iframe>',
        encoding="utf-8",
    )
    dom = browse(tmp_path, frame, "--window-size=1600,1000", "--dump-dom").stdout
    (said,) = re.findall(r"<title>(\d+ of \d+:.*?)</title>", dom, re.DOTALL)
    assert re.match(r"0 of \d{2}:", said), said


@contextmanager
def served(text: str) -> Iterator[str]:
    """Yield the address of a page; below ``/without-scripts`` the browser is told to run none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            if self.path == "/without-scripts":
                self.send_header("Content-Security-Policy", "sandbox")
            self.end_headers()
            with suppress(ConnectionError):  # the browser need not wait for the answer
                self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def drawn(tmp_path: Path, address: str) -> list[bytes]:
    """Return what a page draws: every glyph, line and picture with its place.

    Printing lays out and decodes everything before it writes, unlike a screenshot, which shows what is there yet.
    """
    pdf = tmp_path / "drawn.pdf"
    browse(tmp_path, address, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    return re.findall(rb"(?<!end)stream\n(.*?)\nendstream", pdf.read_bytes(), re.DOTALL)


DECIMAL = re.compile(rb"-?\d*\.\d+")


def assert_same_drawing(one: bytes, other: bytes) -> None:
    """Compare glyphs, lines and pictures exactly; Chromium rounds the size of a chart's letters now up, now down."""
    if one == other:
        return
    texts = [zlib.decompress(part) for part in (one, other)]
    assert DECIMAL.sub(b"#", texts[0]) == DECIMAL.sub(b"#", texts[1])
    places = [np.array(DECIMAL.findall(text), dtype=float) for text in texts]
    np.testing.assert_allclose(places[0], places[1], rtol=0.01, atol=0.1)


def test_it_reads_the_same_with_javascript_off(page, tmp_path):
    with served(page.read_text(encoding="utf-8")) as address:
        usual, without = (drawn(tmp_path, f"{address}/{way}") for way in ("usual", "without-scripts"))
    assert sum(b"Tj" in zlib.decompress(part) for part in usual if part[:1] == b"x") >= 3, "pages with text"
    assert len(usual) == len(without)
    for one, other in zip(usual, without, strict=True):
        assert_same_drawing(one, other)


def test_a_page_that_needs_javascript_would_be_seen(tmp_path):
    with served("<p>text</p><noscript>please turn it on</noscript>") as address:
        usual = drawn(tmp_path, f"{address}/usual")
        assert drawn(tmp_path, f"{address}/usual") == usual
        assert drawn(tmp_path, f"{address}/without-scripts") != usual
    with (
        served("<table id=t></table><script>t.innerHTML = '<tr><td>0.88'</script>") as address,
        pytest.raises(AssertionError, match="Blocked script"),
    ):
        drawn(tmp_path, f"{address}/without-scripts")


def test_it_prints(page, tmp_path):
    pdf = tmp_path / "report.pdf"
    browse(tmp_path, page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 3 <= pages <= 30
