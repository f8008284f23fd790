"""An installation claims one name, and its command and losses work beside other people's modules."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.test_architecture import FLOORS

ROOT = Path(__file__).resolve().parent.parent
HOST = """
import losses, sys
from sonodistill.losses import SRKDLoss
from sonodistill.metrics import within_chart
assert losses.mine and "models" not in sys.modules, "the host's own modules stay"
assert SRKDLoss.__module__ == "sonodistill.losses.selective"
try:
    import export
except ImportError:
    print("ours:", sorted(name for name in sys.modules if name.startswith("sonodistill.metrics")))
"""


def test_the_package_of_a_clone_holds_the_folders():
    code = (
        "from sonodistill.losses import SRKDLoss; import sonodistill.folders, losses; print(losses.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == ROOT / "losses" / "__init__.py"


def test_a_wheel_in_an_empty_environment(tmp_path):
    source = tmp_path / "source"
    for folder in (*FLOORS, "sonodistill"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    uv = shutil.which("uv") or next(map(str, ROOT.glob(".uv/bin/uv")), None)
    venv.create(tmp_path / "empty", with_pip=uv is None)
    python = tmp_path / "empty" / "bin" / "python"
    (packages,) = (tmp_path / "empty").glob("lib/*/site-packages")
    before = {path.name for path in packages.iterdir()}
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    subprocess.run([*install, "-q", "--no-deps", wheel], check=True)
    new = {path.name for path in packages.iterdir()} - before
    assert {name for name in new if not name.endswith(".dist-info")} == {"sonodistill"}
    shipped = {
        path.relative_to(packages / "sonodistill")
        for path in packages.glob("sonodistill/**/*")
        if path.suffix != ".pyc"
    }
    for folder in FLOORS:
        for path in (source / folder).rglob("*"):
            assert path.relative_to(source) in shipped, path
    # PyTorch and the rest come from this environment; a path file of one does not read the other's.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")

    host = tmp_path / "host"
    host.mkdir()
    (host / "losses.py").write_text("mine = True\n")
    (host / "host.py").write_text(HOST)
    done = subprocess.run([python, "host.py"], cwd=host, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ours: ['sonodistill.metrics'" in done.stdout
    program = [tmp_path / "empty" / "bin" / "sonodistill", "list"]
    done = subprocess.run(program, cwd=host, capture_output=True, text=True, check=False)
    assert (done.returncode, "srkd" in done.stdout) == (0, True), done.stderr
    teacher = packages / "sonodistill/models/teachers/phantom.safetensors"
    inspect = [python, "-m", "sonodistill", "inspect", teacher]
    done = subprocess.run(inspect, cwd=host, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
