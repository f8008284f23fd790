"""The report in a real browser: no errors, no sideways scrolling, both themes, on paper."""

import html
import re
import shutil
import subprocess
from pathlib import Path

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


def browse(tmp_path: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    profile = tmp_path / f"profile-{len(list(tmp_path.glob('profile-*')))}"
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={profile}", *options, page.as_uri()]
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


def test_screenshots_in_both_themes(page, tmp_path):
    width, height = 1280, 3000
    shades = {}
    for theme, option in (("light", LIGHT), ("dark", DARK)):
        shot = tmp_path / f"{theme}.png"
        browse(tmp_path, page, f"--window-size={width},{height}", f"--screenshot={shot}", option)
        picture = Image.open(shot).convert("L")
        assert picture.size == (width, height)
        shades[theme] = float(np.median(np.asarray(picture)))
    assert shades["light"] > 230
    assert shades["dark"] < 40


@pytest.mark.parametrize(("width", "media"), [(1280, "screen"), (390, "screen"), (688, "print")])
def test_page_and_tables_are_no_wider_than_the_window(page, tmp_path, width, media):
    """A box scrolls on a screen, but what is beyond it is not on the paper, of which A4 is the narrower."""
    text = page.read_text(encoding="utf-8")
    if media == "print":
        # A browser without a printer shows that layout when it is told that it holds everywhere.
        assert text.count("@media print") == 1
        text = text.replace("@media print", "@media all").replace(
            "@media (max-width", "@media not all and (max-width"
        )
    probe = (
        "const whole = this.contentDocument;"
        "const all = [...whole.querySelectorAll('.scroll')];"
        "const wide = all.filter(box => box.scrollWidth > box.clientWidth);"
        "const names = wide.map(box => box.textContent.trim().slice(0, 30));"
        "document.title = `${whole.documentElement.scrollWidth} px, ${wide.length} of ${all.length}: ${names}`"
    )
    # In a frame, because a headless window is never narrower than 500 pixels when a script asks.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<title></title><iframe width="{width}" height="900" onload="{probe}" '
        f'srcdoc="{html.escape(text, quote=True)}"></iframe>',
        encoding="utf-8",
    )
    dom = browse(tmp_path, frame, "--window-size=1600,1000", "--dump-dom").stdout
    ((wide, tables),) = re.findall(r"<title>(\d+) px, (\d+ of \d+:.*?)</title>", dom, re.DOTALL)
    assert int(wide) <= width
    assert re.match(r"0 of \d{2}:", tables), tables


def test_it_prints(page, tmp_path):
    pdf = tmp_path / "report.pdf"
    browse(tmp_path, page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 3 <= pages <= 30
