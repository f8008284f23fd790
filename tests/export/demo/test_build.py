"""Building and serving the demo page, without a browser."""

import base64
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
import torch

from experiments.commands import demo as command
from export.demo import build, runtime
from export.demo.build import STATIC, build_demo
from export.demo.server import HEADERS, server_of
from export.package.manifest import read_export, write_manifest
from metrics.benchmarks import BENCHMARKS

CONTENT = {path: path.encode() for path in runtime.ONNX_RUNTIME.files}


def package():
    """Return a tarball as npm publishes them, with short files in place of the runtime's."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for path, content in CONTENT.items():
            entry = tarfile.TarInfo(f"package/{runtime.ONNX_RUNTIME.files[path]}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


@pytest.fixture
def pinned(monkeypatch, tmp_path):
    """A tarball whose hash is the pinned one, an empty cache, and no npm."""
    content = package()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    fake = dataclasses.replace(runtime.ONNX_RUNTIME, integrity=f"sha512-{digest}")
    monkeypatch.setattr(runtime, "ONNX_RUNTIME", fake)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return content


def files(*tarballs):
    """The files of ONNX Runtime."""
    return runtime.runtime_files(runtime.ONNX_RUNTIME, tarballs)


@pytest.fixture
def npm(pinned, tmp_path):
    """Install a program in place of npm: it packs these bytes, or ends with a status, and notes its arguments."""

    def install(content, status=0):
        program = tmp_path / "bin" / "npm"
        program.parent.mkdir(exist_ok=True)
        (tmp_path / "packed").write_bytes(content)
        program.write_text(f"""#!/bin/sh
echo "$1 $2" >> "{tmp_path}/asked"
[ {status} = 0 ] || exit {status}
/bin/cp "{tmp_path}/packed" "${{3#--pack-destination=}}/onnxruntime-web-{runtime.ONNX_RUNTIME.version}.tgz"
""")
        program.chmod(0o755)
        return tmp_path / "asked"

    return install


@pytest.fixture
def small(monkeypatch):
    """Building takes these instead of the runtime."""
    monkeypatch.setattr("export.demo.build.runtime_files", lambda *_: CONTENT)


@pytest.fixture
def without_samples(small, monkeypatch):
    """Nor does it simulate frames."""
    monkeypatch.setattr("export.demo.build._write_samples", lambda _: [])


@pytest.fixture(scope="module")
def page(exported, request, tmp_path_factory):
    """The page of `exported`; without npm its runtime is short files."""
    try:
        runtime.runtime_files(runtime.ONNX_RUNTIME)
    except ValueError:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("export.demo.build.runtime_files", lambda *_: CONTENT)
            return build_demo(exported.folder, tmp_path_factory.mktemp("small") / "page")
    return request.getfixturevalue("built")


def test_npm_fetches_the_runtime_once(pinned, npm):
    asked = npm(pinned)
    assert files() == files() == CONTENT
    assert asked.read_text() == f"pack onnxruntime-web@{runtime.ONNX_RUNTIME.version}\n"


def test_a_changed_package_is_refused_and_fetched_again(pinned, npm, tmp_path):
    npm(pinned + b" ")
    with pytest.raises(ValueError, match="SHA-512 differs from the pinned one"):
        files()
    npm(pinned)
    assert files() == CONTENT
    (tmp_path / "mine.tgz").write_bytes(pinned[:-1])
    with pytest.raises(ValueError, match=r"mine\.tgz: neither onnxruntime-web"):
        files(tmp_path / "mine.tgz")


def test_without_network_or_npm_one_line_names_the_way_out(pinned, npm):
    with pytest.raises(
        ValueError, match=r"^[^\n]*npm, which fetches it, is not installed; .*--runtime=FILE[^\n]*$"
    ):
        files()
    npm(pinned, status=1)
    with pytest.raises(ValueError, match=r"^[^\n]*npm pack failed \(.*\); .*--runtime=FILE[^\n]*$"):
        files()


def test_the_runtime_from_a_tarball(pinned, tmp_path):
    (tmp_path / "mine.tgz").write_bytes(pinned)
    assert files(tmp_path / "mine.tgz") == CONTENT


def test_the_page_lists_its_files(exported, page):
    facts = json.loads((page / "demo.json").read_text())
    listed = {*facts["files"], *facts["static_files"], "sw.js", "demo.json"}
    assert listed == {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    for name, entry in facts["files"].items():
        content = (page / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name
    assert (page / facts["variants"]["onnx-fp32"]).read_bytes() == exported.artifact("onnx-fp32").read_bytes()
    assert {use: (page / name).name for use, name in facts["text"].items()} == {
        "model": "text_encoder.onnx", "tokenizer": "tokenizer.json", "golden": "text_golden.json",
    }  # fmt: skip
    titles = [re.fullmatch(r"(.*), (\d+) weeks", sample["title"]).groups() for sample in facts["samples"]]
    assert len(titles) == 10
    assert len({plane for plane, _ in titles}) >= 7
    assert all(plane.startswith("trans-") for plane, _ in titles[:3]), (
        "heads, whose age is of interest, come first"
    )
    assert all(14 <= int(weeks) <= 40 for _, weeks in titles)
    assert len({sample["pixel_size_mm"] for sample in facts["samples"]}) >= 7


def test_a_page_replaces_itself_or_an_empty_folder_and_nothing_else(exported, without_samples, tmp_path):
    page, other = tmp_path / "page", tmp_path / "other"
    page.mkdir()
    for _ in range(2):
        assert build_demo(exported.folder, page) == page
    other.mkdir()
    (other / "thesis.txt").touch()
    for target in (other, other / "thesis.txt"):
        with pytest.raises(ValueError, match="exists and is not such a page"):
            build_demo(exported.folder, target)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "page"]


def test_an_exports_own_classes_are_on_the_page_and_a_file_managers_files_are_not(
    copied, without_samples, tmp_path, monkeypatch
):
    (copied / "golden" / ".DS_Store").touch()
    static = shutil.copytree(build.STATIC, tmp_path / "static")
    (static / ".DS_Store").touch()
    monkeypatch.setattr(build, "STATIC", static)
    export = read_export(copied)
    for name in ("clinic", "known"):
        export.manifest["heads"][name] = export.manifest["heads"]["planes"]
    monkeypatch.setitem(BENCHMARKS, "known", replace(BENCHMARKS["planes"], name="known", own=True))
    monkeypatch.setattr("export.demo.build.read_export", lambda _: export)
    page = build_demo(copied, tmp_path / "page")
    found = {one["name"]: one for one in json.loads((page / "demo.json").read_text())["benchmarks"]}
    assert list(found) == ["planes", "subplanes", "clinic", "known"]
    for name in ("clinic", "known"):
        assert found[name] == {"name": name, "key": name, "title": name, "ofBrain": False}
    assert not list(page.rglob(".*"))


@pytest.mark.parametrize("name", ["heads.js", "icon-192.png"])
def test_an_export_brings_no_script_and_replaces_no_file_of_the_page(
    copied, without_samples, tmp_path, monkeypatch, name
):
    export = read_export(copied)
    export.manifest["artifacts"]["heads"]["file"] = name
    (copied / "heads.safetensors").rename(copied / name)
    monkeypatch.setattr("export.demo.build.read_export", lambda _: export)
    with pytest.raises(ValueError, match=f"{name} cannot be part of the page"):
        build_demo(copied, tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(("left_out", "text"), [("onnx-text", None), ("text/tokenizer.json", {})])
def test_an_export_without_int8_or_a_text_tower_that_the_page_can_use(
    copied, without_samples, tmp_path, left_out, text
):
    manifest = read_export(copied).manifest
    del manifest["artifacts"][left_out], manifest["artifacts"]["onnx-int8"], manifest["manifest_sha256"]
    write_manifest(copied, manifest)
    page = build_demo(copied, tmp_path / "page")
    facts = json.loads((page / "demo.json").read_text())
    assert facts["text"] == text
    assert facts["variants"] == {"onnx-fp32": "image_encoder.onnx"}
    assert not list(page.rglob("text_encoder.onnx"))


def test_the_server_sends_the_headers_and_types(tmp_path, served):
    types = {
        "a.js": "text/javascript", "a.mjs": "text/javascript", "a.wasm": "application/wasm",
        "a.webmanifest": "application/manifest+json", "a.md": "text/plain; charset=utf-8",
    }  # fmt: skip
    for name in types:
        (tmp_path / name).touch()
    address = served(tmp_path).address
    for name, kind in types.items():
        with urllib.request.urlopen(address + name) as response:
            assert response.headers["Content-Type"] == kind
            assert {key: response.headers[key] for key in HEADERS} == HEADERS
    port = int(re.search(r":(\d+)/", address).group(1))
    for wrong, reason in ((port, "in use; choose another"), (65536, "expected 0 to 65535")):
        with pytest.raises(ValueError, match=f"--port={wrong}: {reason}"):
            server_of(tmp_path, "127.0.0.1", wrong)


def test_the_server_is_silent_about_a_visitor_who_leaves_and_about_nothing_else(tmp_path, served, capsys):
    for error, said in ((BrokenPipeError("pipe"), False), (OSError("disk"), True)):
        try:
            raise error
        except OSError:
            served(tmp_path).handle_error(None, ("127.0.0.1", 1))
        assert (str(error) in capsys.readouterr().err) == said


def test_nothing_comes_from_elsewhere_and_no_style_or_script_is_inline():
    page = (STATIC / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src 'none'" in policy
    assert HEADERS["Content-Security-Policy"] == f"{policy}; frame-ancestors 'none'"
    assert "unsafe-inline" not in policy
    assert "'unsafe-eval'" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for file in STATIC.glob("*.*"):
        if file.suffix in (".js", ".html", ".css", ".webmanifest"):
            addresses = set(re.findall(r"https?://[^\s\"')]+", file.read_text()))
            assert addresses <= {"http://www.w3.org/2000/svg"}, file.name
            assert len(file.read_text().splitlines()) <= 400, file.name


def test_the_newest_student_is_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained student; make train EXP=srkd"):
        command.newest_student(tmp_path)
    for age, name in enumerate(("teacher/a", "srkd-qat/a", "srkd/new", "no-kd/old")):
        file = tmp_path / name / "checkpoints" / "best.ckpt"
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1000 - age, 1000 - age))
    assert command.newest_student(tmp_path) == tmp_path / "srkd" / "new" / "checkpoints" / "best.ckpt"


@pytest.mark.parametrize(("tokenizer", "option"), [("fetal", ["--text_encoder=true"]), ("clip", [])])
def test_a_small_text_tower_is_exported_too(tmp_path, monkeypatch, tokenizer, option):
    torch.save({"student": {"preprocessing": {"tokenizer": tokenizer}}}, tmp_path / "student.ckpt")
    asked = []
    monkeypatch.setattr("experiments.commands.export.main", lambda argv: asked.append(argv) or 1)
    assert command.main([str(tmp_path / "student.ckpt")]) == 1
    assert asked == [[str(tmp_path / "student.ckpt"), "--skip=coreml", *option]]


def test_the_export_of_a_run_is_used_unless_it_is_another_checkpoints(
    exported, copied, without_samples, tmp_path
):
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    copied.rename(run / "export")
    with pytest.raises(ValueError, match="made from another checkpoint; make export CKPT="):
        command.main([str(checkpoint), f"--build={tmp_path / 'page'}"])
    assert not (tmp_path / "page").exists()
    assert command.main([str(run / "export"), f"--build={tmp_path / 'page'}"]) == 0
    assert (tmp_path / "page" / "index.html").is_file()
    with pytest.raises(FileNotFoundError, match="no such file"):
        command.main([str(run / "export"), f"--runtime={tmp_path / 'nowhere'}"])
