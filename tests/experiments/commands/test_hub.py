"""`sonodistill hub` against a server of its own that answers as the Hugging Face Hub does."""

from __future__ import annotations

import base64
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants
import pytest
import torch

from experiments.__main__ import run
from export.graphs.contract import contract_digest
from export.graphs.heads import write_heads
from export.package.manifest import artifact_entry, read_export, write_manifest
from export.package.model_card import MODEL_CARD
from metrics.benchmarks import BENCHMARKS
from models import load_student
from models.student.onnx_files import HEADS
from tests.conftest import write_image

TOKEN, COMMIT = "hf_pl4ntedToken", "c0ffee" + 34 * "0"


class Hub(BaseHTTPRequestHandler):
    """One repository: commits of regular files, their listing, and their download."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None, bytes]]

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.path.endswith("/repos/create"):
            name = json.loads(body)["name"]
            self.answer({"url": f"http://{self.headers['Host']}/me/{name}", "id": f"me/{name}"})
        elif "/preupload/" in self.path:
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/me/student/commit/{COMMIT}",
                    "commitOid": COMMIT,
                }
            )
        else:
            self.answer({"errors": [], "warnings": []})  # of the card's metadata

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization"), b""))
        path, names = self.path.partition("?")[0], list(self.files)
        if path.startswith("/api/models/me/student/tree/"):
            self.answer([{"type": "file", "path": name, "size": len(self.files[name]), "oid": f"{i:040x}"}
                         for i, name in enumerate(names)])  # fmt: skip
        elif path.startswith("/api/models/me/student"):
            self.answer(
                {"id": "me/student", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            )
        elif path.startswith(f"/me/student/resolve/{COMMIT}/"):
            name = path.partition(f"/{COMMIT}/")[2]
            self.answer(self.files[name], ETag=f'"{names.index(name):040x}"')
        else:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    handler = type("OneHub", (Hub,), {"files": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        address + "/{repo_id}/resolve/{revision}/{filename}")  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    yield handler
    server.shutdown()


@pytest.fixture
def export(tiny_student, tmp_path):
    """An export folder with a model, a card and golden frames, and with a picture that its manifest does not list."""
    folder = tmp_path / "export"
    write_image(folder / "golden" / "frame_0.png", 0)
    write_image(folder / "thumbnail.png", 1)
    (folder / "model.bin").write_bytes(bytes(range(256)) * 99)
    (folder / MODEL_CARD).write_text("---\nlicense: other\n---\n# A student\n")
    contract = {"preprocessing": tiny_student.preprocessing.to_dict()}
    ties = {"contract_sha256": contract_digest(contract), "model_sha256": "0"}
    write_heads(folder / HEADS, {}, None, ties)
    (folder / "README.md").write_text("---\nlicense: other\n---\n# How to use it\n")
    kinds = dict.fromkeys(("model.bin", MODEL_CARD, "README.md"), "document") | {
        "golden": "golden",
        HEADS: "heads",
    }
    write_manifest(folder, ties | {
        "contract": contract, "embed_dim": 24, "heads": {}, "source": {"recipe": tiny_student.recipe()},
        "artifacts": {name.partition(".safetensors")[0]: artifact_entry(folder / name, folder, kind=kind)
                      for name, kind in kinds.items()},
    })  # fmt: skip
    return folder


@pytest.fixture
def checkpoint(tiny_student, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    state = {f"student.{name}": value for name, value in tiny_student.state_dict().items()}
    made = {"recipe": tiny_student.recipe(), "preprocessing": tiny_student.preprocessing.to_dict()}
    torch.save({"state_dict": state, "student": made, "run": {"teacher": None}}, path)
    return path


def test_an_export_goes_up_with_its_card_and_comes_back(hub, export, tmp_path, capsys):
    run(["hub", "push", str(export), "me/student"])
    assert hub.files["README.md"] == (export / "README.md").read_bytes()
    assert hub.files["model.bin"] == (export / "model.bin").read_bytes()
    assert "golden/frame_0.png" in hub.files
    assert "thumbnail.png" not in hub.files
    (created,) = [json.loads(body) for path, _, body in hub.asked if path.endswith("/repos/create")]
    assert created.get("private", created.get("visibility") == "private")
    assert {authorization for path, authorization, _ in hub.asked if "me/student" in path} == {
        f"Bearer {TOKEN}"
    }
    run(["hub", "pull", "me/student", "got"])
    assert read_export(tmp_path / "got").manifest == read_export(export).manifest
    names = {
        path.relative_to(tmp_path / "got").as_posix()
        for path in (tmp_path / "got").rglob("*")
        if path.is_file()
    }
    assert names == set(hub.files)
    printed = capsys.readouterr()
    assert COMMIT in printed.out
    assert TOKEN not in printed.out + printed.err


def test_a_checkpoint_goes_up_with_a_card_and_comes_back(hub, checkpoint, tmp_path, monkeypatch):
    run(["hub", "push", str(checkpoint), "me/student", "--public"])
    assert set(hub.files) == {"README.md", "best.ckpt"}
    card = hub.files["README.md"].decode()
    assert card.startswith("---\nlicense: other")
    assert "Not a medical device" in card
    assert "resnet10t" in card
    run(["hub", "pull", "me/student", "got", f"--revision={COMMIT}"])
    loaded = load_student(tmp_path / "got" / "best.ckpt")
    assert loaded.dimension == 24
    monkeypatch.chdir(tmp_path / "got")
    monkeypatch.setenv("PYTHONPATH", "")  # which the card's first import changes
    monkeypatch.setattr("sys.path", [*sys.path])
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert code.startswith("import sonodistill.folders"), "after pip install `models` is not on the path"
    names = {}
    exec(code, names)
    assert names["student"].dimension == 24


def test_names_of_a_run_are_no_markup_in_its_card(hub, checkpoint):
    hostile = "<script>alert(1)\\n# Heading [a](javascript:b)"
    data = f'{{class_path: datamodules.HC18DataModule, init_args: {{root: "{hostile}"}}}}'
    (checkpoint.parent.parent / "config.yaml").write_text(f"data: {data}\nmodel: {{}}\n")
    run(["hub", "push", str(checkpoint), "me/student"])
    card = hub.files["README.md"].decode()
    assert "&lt;script&gt;alert(1) # Heading \\[a](javascript:b)" in card
    assert "<script" not in card
    assert "\n# Heading" not in card


OWN = {
    "name": "clinic", "title": "", "subject": "", "kind": "classification", "corpus": "clinic", "label": "plane",
    "prompts": "", "headline": "f1", "exclude": [], "own": True,
}  # fmt: skip


@pytest.mark.parametrize(("data", "own", "option", "pushed"), [
    ("datamodules.TableDataModule", [], [], False),
    ("datamodules.TableDataModule", [], ["--with-images"], True),
    ("datamodules.PhantomDataModule", [], [], True),
    ("datamodules.PhantomDataModule", [OWN], [], False),
    ("my_data.NoPhantomDataModule", [], [], False),
])  # fmt: skip
def test_reports_of_patients_need_permission(hub, checkpoint, monkeypatch, data, own, option, pushed):
    monkeypatch.setattr("metrics.benchmarks.BENCHMARKS", dict(BENCHMARKS))
    folder = checkpoint.parent.parent
    (folder / "report.html").write_text("<img src='data:image/png;base64,AAAA'>")
    (folder / "config.yaml").write_text(f"data: {{class_path: {data}, init_args: {{}}}}\nmodel: {{}}\n")
    record = {"experiment": "srkd", "data": "x", "metrics": {}, "details": {}, "benchmarks": own}
    (folder / "results.json").write_text(json.dumps(record))
    if pushed:
        run(["hub", "push", str(folder), "me/student", *option])
        assert "report.html" in hub.files
        return
    with pytest.raises(
        ValueError, match=r"report.html may show images or names of patients; .* add --with-images"
    ):
        run(["hub", "push", str(folder), "me/student"])
    assert hub.asked == [], "nothing was sent"


def test_mistakes_are_one_line_and_leave_nothing(hub, checkpoint, export, tmp_path):
    def refused(kind, *words):
        with pytest.raises(kind) as refusal:
            run(["hub", *words])
        assert "\n" not in str(refusal.value)
        assert TOKEN not in str(refusal.value)
        return str(refusal.value)

    assert "not found" in refused(OSError, "pull", "me/nothing", "got").lower()
    assert "no such checkpoint" in refused(OSError, "push", "nowhere", "me/student")
    torch.save({"state_dict": {}, "student": {}}, tmp_path / "other.ckpt")
    assert "has no recipe" in refused(ValueError, "push", "other.ckpt", "me/student")
    assert "exists already" in refused(ValueError, "pull", "me/student", "run")
    (export / "model.bin").write_bytes(b"changed")
    assert "the file was changed or replaced" in refused(ValueError, "push", str(export), "me/student")
    hub.files["../../escaped.txt"] = b"x"
    assert "would leave the folder" in refused(ValueError, "pull", "me/student", "got")
    hub.files.clear()
    hub.files.update({"manifest.json": b"{}"})
    assert "manifest.json" in refused(ValueError, "pull", "me/student", "got")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "other.ckpt", "run"]
