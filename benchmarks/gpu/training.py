"""A real training beside the bare step of the step stage, and an epoch of HC18's validity.

The trainings are `python -m experiments train srkd` with the full-size towers and random weights, on phantom pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback

from benchmarks._record import Row, seconds_of
from benchmarks.gpu.stage import GOALS, TRAINING, Stage, ask_driver, release, student, teacher
from datamodules import TableDataModule
from datamodules.cores import usable_cores
from datamodules.evaluation.protocol import Protocol
from datamodules.phantom.corpus import PAIRS_FOLDER, PhantomSettings, make_corpus
from models import Preprocessing
from models.evaluation_mode import evaluation_mode
from models.files import write_json
from models.loading import save_half
from models.zero_shot import age_embeddings, encode_images

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24  # of a training; the first third is not timed


class Clock(Callback):
    """Write the time of each step's start and end to a file when training ends."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.times: dict[str, list[float]] = {"starts": [], "ends": []}

    def on_train_batch_start(self, *_: Any) -> None:
        self.times["starts"].append(time.time())

    def on_train_batch_end(self, *_: Any) -> None:
        self.times["ends"].append(time.time())

    def on_train_end(self, *_: Any) -> None:
        write_json(self.path, self.times)


@contextmanager
def sampled_use(samples: list[tuple[float, float]]) -> Iterator[None]:
    """Sample the share of time in which the card computes, (time, 0-1), while the block runs; nothing on a CPU."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            try:
                (busy,) = ask_driver("utilization.gpu")  # "37 %"
                samples.append((time.time(), int(busy.split()[0]) / 100))
            except Exception as error:  # the row then says nothing about idleness
                print(f"no utilisation: {error}", flush=True)
                return

    if torch.cuda.is_available():
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def write_pairs(folder: Path, pictures: int, pairs: int) -> None:
    """Draw pictures, and write shards and a table of as many pairs as an epoch needs: links to the pictures."""
    settings = PhantomSettings(num_planes_images=0, num_hc18_images=0, num_pair_images=pictures)
    drawn = make_corpus(settings, folder) / PAIRS_FOLDER
    shards, files = folder / "shards", folder / "files"
    shards.mkdir()
    files.mkdir()
    originals = json.loads((drawn / "manifest.json").read_text())["shards"]
    listed: list[dict[str, Any]] = []
    while sum(shard["samples"] for shard in listed) < pairs:
        shard = originals[len(listed) % len(originals)]
        listed.append({"name": f"pairs-{len(listed):06d}.tar", "samples": shard["samples"]})
        os.link(drawn / shard["name"], shards / listed[-1]["name"])
    write_json(shards / "manifest.json", {"shards": listed})
    for shard in originals:
        with tarfile.open(drawn / shard["name"]) as archive:
            archive.extractall(files, filter="data")
    about, rows = sorted(files.glob("*.json")), []
    for number in range(pairs):
        path = about[number % len(about)]
        facts = json.loads(path.read_text())
        os.link(path.with_suffix(".png"), files / f"{number:06d}.png")
        rows.append({
            "image": f"{number:06d}.png", "patient": path.stem, "split": "train",
            "caption": facts["captions"][0], "pixel_size_mm": facts["pixel_size_mm"],
        })  # fmt: skip
    pd.DataFrame(rows).to_csv(files / "table.csv", index=False)


def workers_that_fit(stage: Stage) -> int:
    """Return the workers of a loader: two cores less than all, and no more than shared memory has room for."""
    if stage.quick:
        return 1
    pixels = stage.batch * 3 * (256**2 + 224**2) * 4
    shared = Path("/dev/shm")  # nosec B108  # where a loader's workers put their batches
    room = shutil.disk_usage(shared).free if shared.is_dir() else 0
    return max(0, min(usable_cores() - 2, room // (3 * pixels)))  # two batches wait, one is being made


def fill_squares(stage: Stage, source: list[str], views: list[Preprocessing]) -> None:
    """Fill the cache of squares as a first epoch would."""
    start = time.monotonic()
    settings = dict(option.removeprefix("--data.").split("=") for option in source[1:])
    data = TableDataModule(**settings, batch_size=stage.batch, num_workers=workers_that_fit(stage))
    data.setup("fit")
    data.bind(*views)
    for _ in data.train_dataloader():
        pass
    stage.facts["seconds of filling the cache"] = time.monotonic() - start


def train(stage: Stage, goal: str, options: list[str], compiled: bool, folder: Path) -> None:
    """Train in one way, and compare with the bare step."""
    steps, batch, workers = (6 if stage.quick else STEPS), stage.batch, workers_that_fit(stage)
    clock = folder / f"{goal}.clock.json"
    command = [
        sys.executable, "-m", "experiments", "train", "srkd", *options, "--quick=false", f"--run={goal}",
        f"--trainer.max_steps={steps}", "--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=1",
        "--trainer.precision=bf16-mixed", "--trainer.log_every_n_steps=10", "--score_test_patients=false",
        f"--trainer.accelerator={stage.device}", "--trainer.devices=1",
        f"--data.batch_size={batch}", f"--data.num_workers={workers}", f"--data.pin_memory={not stage.quick}",
        "--trainer.callbacks+=benchmarks.gpu.training.Clock", f"--trainer.callbacks.path={clock}",
        *[f"--model.compile={stage.backend}"] * compiled,
    ]  # fmt: skip
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "WANDB_MODE": "disabled"}
    samples: list[tuple[float, float]] = []
    with sampled_use(samples):
        # Its output goes to the stage's log, which a limit leaves.
        done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}; see its output in {stage.out}/training.log")
    starts, ends = map(np.array, json.loads(clock.read_text()).values())
    first = steps // 3
    each = np.diff(ends)[first - 1 :]
    rate = batch / each.mean()
    waited = float((starts[first:] - ends[first - 1 : -1]).sum() / each.sum())
    kind = "compiled" if compiled else "eager"
    note = f"{rate:.0f} images/s over the last {steps - first} of {steps} steps, {kind}, batch {batch}, "
    note += f"{workers} workers; between steps {waited:.1%}"
    if busy := [share for at, share in samples if ends[first - 1] <= at <= ends[-1]]:
        note += f"; card idle {1 - np.mean(busy):.1%}"
    path = stage.out / "step.json"
    bare = json.loads(path.read_text())["facts"].get("images_per_s", {}) if path.is_file() else {}
    more: dict[str, Any] = {"seconds": {"training": each}, "note": note}
    if f"live, {kind}" in bare:
        stage.goal(goal, [rate / bare[f"live, {kind}"]], **more)
    else:
        stage.add(Row(TRAINING, GOALS[goal].case, "images/s", [rate], **more))


def validity(stage: Stage) -> None:
    """Time one epoch's HC18 validity of the student: 999 images, all ages at 77 spacings with all templates."""
    own = student(stage.quick).to(stage.device)
    spacings, images, prompts = (1, 2, 1) if stage.quick else (77, 999, 5)
    templates = [
        f"{template} {'.' * i}" for i, template in enumerate((Protocol.load().biometry * 3)[:prompts])
    ]
    printed = [f"{0.2 + i / 100:.2f}" for i in range(spacings)]
    side = own.preprocessing.image_size
    pixels = torch.randn(min(images, 64), 3, side, side, device=stage.device)

    def evaluate(model: Any, count: int) -> None:
        table = age_embeddings(model, templates, printed[:count])
        for begin in range(0, images, len(pixels)):
            embedded = encode_images(model, pixels[: images - begin])
            table.similarity(embedded, [printed[0]] * len(embedded)).cpu()

    with evaluation_mode(own) as used:
        evaluate(used, 1)  # warms up
        seconds = seconds_of(partial(evaluate, used, spacings))
    note = f"{images} images, {spacings} spacings, {len(templates) * 175} prompts each"
    stage.goal("validity", [seconds], note=note)


def run(stage: Stage, compiled: bool) -> None:
    """Evaluate, then train from shards and from squares."""
    stage.measured("HC18 validity", partial(validity, stage))
    with tempfile.TemporaryDirectory() as name:
        folder, start = Path(name), time.monotonic()
        write_pairs(folder, *((16, 64) if stage.quick else (1024, (STEPS + 2) * stage.batch)))
        own, taught = student(stage.quick), teacher(stage.quick)
        write_json(folder / "student.json", own.configuration)
        save_half(taught, folder / "teacher.safetensors")
        views = [own.preprocessing, taught.preprocessing]
        del own, taught
        release()  # the trainings need the memory
        stage.facts["seconds of preparation"] = time.monotonic() - start
        towers = [
            f"--teacher={folder}/teacher.safetensors", f"--model.student.init_args.name={folder}/student.json"
        ]  # fmt: skip
        shards = ["shards", f"--data.urls={folder}/shards"]
        shards += ["--data.planes_root=null", "--data.hc18_root=null"]
        squares = ["table", f"--data.table={folder}/files/table.csv", f"--data.cache={folder}/squares"]
        stage.measured("PNG shards", partial(train, stage, "shards", [*shards, *towers], compiled, folder))
        if stage.measured("cache of squares", partial(fill_squares, stage, squares, views)):
            way = partial(train, stage, "squares", [*squares, *towers], compiled, folder)
            stage.measured("image files, cached squares", way)
