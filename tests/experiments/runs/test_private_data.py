"""What a run on patients' data hands to W&B, and what it writes of URLs that hold a token: read back from its files."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from datamodules.redaction import MARK
from experiments import __main__ as command_line
from tests.callbacks.wandb_log import WandbLog
from tests.experiments.runs.test_evaluate_pair import TOWER

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = ROOT / "tests/experiments/sweep/phantom_small_prompts.json"
PATIENT, NAME, BROKEN = "KH4711", "MuellerAnna", "SchulzBerta_scan"
TOKEN, PASSWORD = "t0pS3cretSignature", "pa55word"
SHARDS, PAIRS = 2, 8


class Server(SimpleHTTPRequestHandler):
    """Serves a folder to those who know the secrets, and remembers what was asked for."""

    asked: list[str]

    def do_GET(self):
        self.asked.append(self.path)
        if TOKEN in self.path and self.headers.get("Authorization"):
            super().do_GET()
        else:
            self.send_error(403)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """The URL of shards with a user, a password and a signed query, and what its server was asked for."""
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"pairs-{shard:06d}.tar", "w") as archive:
            for number in range(PAIRS):
                image = np.random.default_rng(number).integers(0, 255, (24, 32), dtype=np.uint8)
                key = f"{BROKEN}{shard}" if number == 0 else f"s{shard}i{number}"
                png = b"no image" if number == 0 else cv2.imencode(".png", image)[1].tobytes()
                for name, content in ((f"{key}.png", png), (f"{key}.txt", b"a fetal head")):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    handler = type("Handler", (Server,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    place = f"anna:{PASSWORD}@127.0.0.1:{server.server_address[1]}"
    yield f"http://{place}/pairs-{{000000..{SHARDS - 1:06d}}}.tar?signature={TOKEN}", handler.asked
    server.shutdown()


@pytest.fixture
def patients(tiny_planes):
    """A corpus in FETAL_PLANES_DB's layout, with names that only its owner may read."""
    table = tiny_planes / "FETAL_PLANES_DB_data.csv"
    head, *rows = table.read_text().splitlines()
    lines = [head]
    for row in rows:
        name, number, *rest = row.split(";")
        (tiny_planes / "Images" / f"{name}.png").rename(tiny_planes / "Images" / f"{NAME}{name}.png")
        lines.append(";".join([f"{NAME}{name}", f"{PATIENT}-{number}", *rest]))
    table.write_text("\n".join(lines) + "\n")
    return tiny_planes


def command(place, planes, *words, **environment):
    """Run ``python -m experiments``, and return its exit status and all that it said."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "SONODISTILL"))}
    own |= {
        "PYTHONPATH": str(ROOT),
        "PLANES_ROOT": str(planes),
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
    }
    own |= {f"WANDB_{kind}_DIR": str(place / "kept" / kind) for kind in ("DATA", "CACHE", "CONFIG")}
    done = subprocess.run(
        [sys.executable, "-m", "experiments", *words],
        cwd=place,
        env=own | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def train(place, urls, planes, *options):
    """Train a tiny student on the shards, and return the run's folder and all that it said."""
    tower = json.dumps({"class_path": "models.TimmEncoder", "init_args": TOWER})
    status, said = command(
        place, planes, "train", "static-kd", "shards", "--run=one", f"--protocol={PROMPTS}",
        f"--model.student={tower}", f"--model.teacher={tower}", f"--data.num_samples={SHARDS * PAIRS}",
        "--data.batch_size=4", "--data.num_workers=0", "--data.on_error=skip", "--data.pin_memory=false",
        "--data.hc18_root=null", "--planes.selection_split=all", "--skipped.max_share=1",
        "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
        "--trainer.precision=32-true", "--trainer.accumulate_grad_batches=1", "--trainer.log_every_n_steps=1",
        *options, SHARDS=urls,
    )  # fmt: skip
    assert status == 0, said[-2000:]
    return place / "outputs" / "static-kd" / "one", said


def holding(text, *folders):
    """Return the files below some folders that hold a text, in their name or content."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    return [str(path) for path in files if text in path.name or text.encode() in path.read_bytes()]


@pytest.mark.parametrize("uploads", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_patients_and_tokens_stay_on_the_machine(tmp_path, served, patients, uploads):
    urls, asked = served
    folder, said = train(tmp_path, urls, patients, *(["--media.upload_images=true"] if uploads else []))
    wandb_log = WandbLog.only_one(folder)
    log = "".join(map(str, wandb_log.records))  # in its file a text may be broken in two
    sent = folder / "wandb", tmp_path / "kept"
    assert len({path for path in asked if TOKEN in path}) == SHARDS + 1, (
        "training itself uses the whole URLs, the manifest's too"
    )
    for secret in (TOKEN, PASSWORD):
        assert holding(secret, folder, *sent) == []
        assert secret not in log + said
    assert f"pairs-{{000000..000001}}.tar?{MARK}" in log, "what is no secret is told"

    history = {key for row in wandb_log.history for key in row}
    shown = {key.split("/")[1] for key in history if key.startswith("evaluation/")}
    assert {"planes", "subplanes"} <= shown, "confusion matrices go in any case"
    assert ("planes-samples" in shown) == uploads
    assert any("confusing_pairs" in key for key in history) == uploads
    assert any(list(place.rglob("*.jpg")) for place in sent) == uploads, "as samples and pairs are kept"
    assert any("samples" in path.name for place in sent for path in place.rglob("*.png")) == uploads
    for text in (PATIENT, NAME):
        assert bool(holding(text, *sent)) == uploads
    assert (NAME in log) == uploads
    assert (BROKEN in log) == uploads, "the console is captured with the images alone"
    assert holding(BROKEN, folder / "checkpoints") == [], "the best one is an artifact"

    assert BROKEN in said
    record = json.loads((folder / "results.json").read_text())
    assert PATIENT in json.dumps(record["details"]), "on this machine it is whole"
    assert record["metrics"].keys() <= {key for item in wandb_log.records for key in _summary(item)}
    written = yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["urls"]
    assert written.endswith(f"{MARK}@{urls.partition('@')[2].partition('?')[0]}?{MARK}")


def _summary(record):
    return ["/".join(item.nested_key) or item.key for item in record.summary.update]


def test_a_run_is_not_repeated_without_what_was_left_out(tmp_path, monkeypatch):
    urls = f"http://{MARK}@127.0.0.1:9/pairs-000000.tar?{MARK}"
    config = {"data": {"class_path": "datamodules.PairShardsDataModule", "init_args": {"urls": urls}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments"])
    line = rf"^--data\.init_args\.urls={re.escape(urls)}: [^\n]* again: --data\.init_args\.urls=\.\.\.$"
    with pytest.raises(ValueError, match=line):
        command_line.run(["fit", "--config=config.yaml", "--run=again"])
    assert not (tmp_path / "outputs").exists()
