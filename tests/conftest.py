"""Fixtures that several rooms share: real data where it is on disk, and tiny corpora in its layout.

Our packages are imported where they are used: tests that need none of them start without PyTorch and SciPy.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from hypothesis import settings
from jsonargparse import _common

from tests import canary as canary_module

if TYPE_CHECKING:
    from models import TimmEncoder

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Tests start servers here, which no proxy of the machine reaches.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
# What `make test ARGS=...` hands down would reach the commands that tests start.
for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARGS"):
    os.environ.pop(name, None)

# The same examples in every run, however slow the machine; `make test-fuzz` has settings of its own.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

# Folders whose files share costly session fixtures, and so belong on one worker of pytest-xdist.
TOGETHER = ("tests/export/", "tests/experiments/report/")
# Where single files take longest. They run first, so that no worker waits for one at the end.
LONG = ("tests/export/", "tests/experiments/runs/", "tests/test_installation.py", "tests/experiments/report/")
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"


def make(*arguments: str, cwd: Path = ROOT, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run make with these arguments, as if .venv were ready; ``-n`` prints the commands only."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # Under `make test`, make would also print which folder it enters.
    command = ["make", "--no-print-directory", "-o", ".venv/.ready", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **settings)


def wait_until(condition: Callable[[], Any], seconds: float = 60, pause: float = 0.05) -> Any:
    """Wait until a condition holds, and fail if it never does; return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "never happened"
        time.sleep(pause)
    return value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests of `LONG` to the front."""
    items.sort(
        key=lambda item: next((n for n, part in enumerate(LONG) if item.nodeid.startswith(part)), len(LONG))
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of one file, or of one folder of `TOGETHER`, on one worker.

    ``--dist loadgroup`` would say the same, but does nothing with xdist 3.8 and pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneWorkerAFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return next((folder for folder in TOGETHER if file.startswith(folder)), file)

    config.option.loadscopereorder = False  # by number of tests, which says little about the time
    return OneWorkerAFile(config, log)


@pytest.fixture(scope="session")
def tiny_student() -> TimmEncoder:
    """Return a student with random weights in eval mode; tests must not change it."""
    import torch

    from models import TimmEncoder

    torch.manual_seed(0)
    return TimmEncoder(
        "resnet10t", {"channels": [8, 8, 16, 16], "stem_width": 8}, embed_dim=24, image_size=40,
        text_width=32, text_layers=1, text_heads=2, context_length=40,
    ).eval()  # fmt: skip


@pytest.fixture(scope="session")
def student_checkpoint(tiny_student: TimmEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of `tiny_student`; tests must not change it."""
    from models import save_half

    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_half(tiny_student, path)
    return path


@pytest.fixture(autouse=True, scope="module")
def _fresh_wandb() -> Iterator[None]:
    """Let no file see the settings that W&B read from another one's environment and keeps in the process."""
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture(autouse=True)
def _finished_wandb_run() -> Iterator[None]:
    """Finish the W&B run that a test leaves: a logger of the next test would write into it."""
    yield
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()


@pytest.fixture(autouse=True)
def _fresh_trust(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let no test see whom a command trusted in another one: both last as long as the process."""
    monkeypatch.setenv("SONODISTILL_TRUST", "")
    monkeypatch.delenv("SONODISTILL_TRUST")
    before = dict(_common.parsing_settings)
    yield
    _common.parsing_settings.clear()
    _common.parsing_settings.update(before)


@pytest.fixture
def handlers() -> Iterator[None]:
    """A run that Ctrl-C ended leaves Lightning's handlers; a shell's background jobs start with Ctrl-C ignored."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that is there once the module `canary` of the working directory has been imported."""
    yield from canary_module.lay(tmp_path, monkeypatch)


def _folder(variable: str, default: Path, marker: str) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not (folder / marker).exists():
        pytest.skip(f"{folder / marker} is absent; set {variable} to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def hc18_root() -> Path:
    """The real HC18 images."""
    return _folder("HC18_ROOT", SHARED / "HC18", "training_set_pixel_size_and_HC.csv")


@pytest.fixture(scope="session")
def fetalclip_root() -> Path:
    """Recorded FetalCLIP similarities and prompts."""
    return _folder("FETALCLIP_ROOT", SHARED / "fetalclip", "hc18_similarities.npz")


def write_image(path: Path, seed: int, size: tuple[int, int] = (64, 44)) -> None:
    """Write a noise image of (width, height) with a bright disc."""
    width, height = size
    image = np.random.default_rng(seed).integers(0, 80, (height, width), dtype=np.uint8)
    cv2.circle(image, (width // 3, height // 2), height // 5, 220, -1)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def tiny_hc18(tmp_path: Path) -> Path:
    """36 images of 30 patients in HC18's official layout."""
    return write_hc18(tmp_path / "HC18")


def write_hc18(root: Path) -> Path:
    """Write the corpus of `tiny_hc18`."""
    lines = ["filename,pixel size(mm),head circumference (mm)"]
    for patient in range(30):
        for scan in ("", "2") if patient % 5 == 0 else ("",):
            name = f"{patient:03d}_{scan}HC.png"
            write_image(root / "training_set" / name, len(lines))
            lines.append(f"{name},{0.1 + patient / 500:.4f},{80 + 8 * patient:.1f}")
    (root / "training_set_pixel_size_and_HC.csv").write_text("\n".join(lines) + "\n")
    return root


PLANES = ("Fetal brain", "Fetal abdomen", "Fetal thorax", "Fetal femur", "Maternal cervix", "Other")
BRAIN_PLANES = ("Trans-thalamic", "Trans-cerebellum", "Trans-ventricular", "Other")


@pytest.fixture
def tiny_planes(tmp_path: Path) -> Path:
    """72 images of 36 patients in FETAL_PLANES_DB's official layout, trailing blanks included."""
    return write_planes(tmp_path / "FETAL_PLANES_DB")


def write_planes(root: Path) -> Path:
    """Write the corpus of `tiny_planes`."""
    lines = ["Image_name;Patient_num;Plane;Brain_plane;Operator;US_Machine;Train "]
    for patient in range(1, 37):
        for shot in (1, 2):
            plane = PLANES[(patient + 2 * shot) % 6]
            brain = BRAIN_PLANES[(patient // 2) % 4] if plane == "Fetal brain" else "Not A Brain"
            name = f"Patient{patient:05d}_Plane{PLANES.index(plane) + 1}_{shot}_of_2"
            write_image(root / "Images" / f"{name}.png", len(lines))
            lines.append(
                f"{name};{patient};{plane};{brain};Op. {patient % 3};Voluson E6;{int(patient <= 18)} "
            )
    (root / "FETAL_PLANES_DB_data.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def small_phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of a run for a phantom of 120 planes and 12 heads, drawn once for all workers of pytest-xdist."""
    from datamodules.phantom.corpus import PhantomSettings, make_corpus

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "small-phantom"
    sizes = {"num_planes_images": 120, "num_hc18_images": 12, "num_pair_images": 0}
    make_corpus(PhantomSettings(**sizes), root, workers=1)
    return f"--data.root={root}", *(f"--data.corpus.{name}={value}" for name, value in sizes.items())


@pytest.fixture(autouse=True)
def registry_as_before():
    """Forget the benchmarks that a test registers."""
    from metrics.benchmarks import BENCHMARKS

    known = dict(BENCHMARKS)
    yield
    BENCHMARKS.clear()
    BENCHMARKS.update(known)
