"""A real training on the card, from PNG shards and from cached squares, beside the bare step; then HC18's validity.

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

from benchmarks._record import Row
from benchmarks.gpu.goals import GOALS
from benchmarks.gpu.stage import Stage, release, student, teacher
from callbacks.evaluation.evaluation_mode import evaluation_mode
from datamodules import TableDataModule
from datamodules.cores import usable_cores
from datamodules.evaluation.protocol import Protocol
from datamodules.phantom.corpus import PAIRS_FOLDER, PhantomSettings, make_corpus
from models import DualEncoder, Preprocessing
from models.files import write_json
from models.loading import save_half
from models.zero_shot import age_embeddings, encode_images

ROOT = Path(__file__).resolve().parents[2]
FEWEST = 24  # steps of a shortened training
SPACINGS, IMAGES = 77, 999  # of HC18


class Clock(Callback):
    """Write the time of each step's start and end to a file when training ends."""

    def __init__(self, path: str) -> None:
        self.path, self.starts, self.ends = Path(path), [], []  # type: ignore[var-annotated]

    def on_train_batch_start(self, *_: Any) -> None:
        self.starts.append(time.time())

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.time())

    def on_train_end(self, *_: Any) -> None:
        write_json(self.path, {"starts": self.starts, "ends": self.ends})


@contextmanager
def utilisation(samples: list[tuple[float, float]]) -> Iterator[None]:
    """Sample the share of time in which the card computes, (time, 0-1), ten times a second; nothing on a CPU."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            try:
                samples.append((time.time(), torch.cuda.utilization() / 100))
            except Exception as error:  # no NVML: the row says nothing about idleness
                print(f"no utilisation: {error}", flush=True)
                return

    thread = threading.Thread(target=watch, daemon=True)
    if torch.cuda.is_available():
        thread.start()
    try:
        yield
    finally:
        done.set()


def write_pairs(folder: Path, pictures: int, pairs: int) -> None:
    """Draw pictures, and write shards and a table of as many pairs as an epoch needs: links to the pictures."""
    corpus = make_corpus(
        PhantomSettings(num_planes_images=0, num_hc18_images=0, num_pair_images=pictures), folder
    )
    whole = json.loads((corpus / PAIRS_FOLDER / "manifest.json").read_text())["shards"]
    (folder / "shards").mkdir()
    listed: list[dict[str, Any]] = []
    while sum(shard["samples"] for shard in listed) < pairs:
        shard = whole[len(listed) % len(whole)]
        name = f"pairs-{len(listed):06d}.tar"
        os.link(corpus / PAIRS_FOLDER / shard["name"], folder / "shards" / name)
        listed.append({"name": name, "samples": shard["samples"]})
    write_json(folder / "shards" / "manifest.json", {"shards": listed})
    (folder / "files").mkdir()
    known = {}
    for shard in whole:
        with tarfile.open(corpus / PAIRS_FOLDER / shard["name"]) as archive:
            archive.extractall(folder / "files", filter="data")
    for path in sorted((folder / "files").glob("*.json")):
        facts = json.loads(path.read_text())
        known[f"{path.stem}.png"] = {"caption": facts["captions"][0], "pixel_size_mm": facts["pixel_size_mm"]}
    names, rows = list(known), []
    for number in range(pairs):
        name, copy = names[number % len(names)], f"{number:06d}.png"
        os.link(folder / "files" / name, folder / "files" / copy)
        rows.append({"image": copy, "patient": name, "split": "train", **known[name]})
    pd.DataFrame(rows).to_csv(folder / "files" / "table.csv", index=False)


def towers(folder: Path, own: Any, taught: DualEncoder) -> list[str]:
    """Write the teacher's random weights, which a training must have; return the options of both towers."""
    write_json(folder / "student.json", own.configuration)
    save_half(taught, folder / "teacher.safetensors")
    return [
        f"--teacher={folder}/teacher.safetensors",
        f"--model.student.init_args.name={folder}/student.json",
    ]


def train(
    stage: Stage, folder: Path, name: str, options: list[str], steps: int, batch: int, workers: int
) -> tuple[dict[str, list[float]], float, float]:
    """Train and return the steps' times, the card's utilisation in the last two thirds, and the whole's seconds."""
    clock, samples = folder / f"{name}.clock.json", []  # type: ignore[var-annotated]
    command = [
        sys.executable, "-m", "experiments", "train", "srkd", *options, "--quick=false", f"--run={name}-{steps}",
        f"--trainer.max_steps={steps}", "--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=1",
        "--trainer.precision=bf16-mixed", "--trainer.log_every_n_steps=10", "--score_test_patients=false",
        f"--trainer.accelerator={'cpu' if stage.quick else 'cuda'}", "--trainer.devices=1",
        f"--data.batch_size={batch}", f"--data.num_workers={workers}", f"--data.pin_memory={not stage.quick}",
        "--trainer.callbacks+=benchmarks.gpu.training.Clock", f"--trainer.callbacks.path={clock}",
    ]  # fmt: skip
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "WANDB_MODE": "disabled"}
    start = time.monotonic()
    with utilisation(samples):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
            timeout=max(1.0, stage.left()),
        )  # fmt: skip
    print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", flush=True)
    if done.returncode:
        if "OutOfMemory" in done.stderr and batch > 8:
            raise torch.OutOfMemoryError
        raise RuntimeError((done.stderr.strip() or "no message").splitlines()[-1])
    found = json.loads(clock.read_text())
    busy = [share for at, share in samples if found["ends"][steps // 3 - 1] <= at <= found["ends"][-1]]
    return found, float(np.mean(busy)) if busy else float("nan"), time.monotonic() - start


def workers_that_fit(batch: int) -> int:
    """Return the workers of a loader: two cores less than all, and no more than shared memory has room for."""
    pixels = batch * 3 * (256**2 + 224**2) * 4
    room = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    return max(0, min(usable_cores() - 2, room // (3 * pixels)))  # two batches wait, one is being made


def fill_squares(stage: Stage, source: list[str], views: list[Preprocessing], workers: int) -> None:
    """Fill the cache of squares as a first epoch would."""
    settings = dict(option.removeprefix("--data.").split("=") for option in source if "--data." in option)
    data = TableDataModule(**settings, batch_size=8 if stage.quick else 512, num_workers=workers)
    data.setup("fit")
    data.bind(*views)
    for _ in data.train_dataloader():
        pass


def one_training(
    stage: Stage, goal: str, options: list[str], compiled: bool, folder: Path, costs: dict[str, float]
) -> None:
    """Train in one way, with fewer steps or pairs where time or memory is short, and compare with the bare step."""
    steps, batch, workers = (6, 8, 1) if stage.quick else (60, 512, workers_that_fit(512))
    if costs:
        steps = min(steps, int((stage.left() - costs["start"] - 5) / costs["step"]))
    if steps < FEWEST and not stage.quick:
        raise TimeoutError(f"left out: {stage.left():.0f} s were left")
    extra = [f"--model.compile={stage.backend}"] if compiled else []
    try:
        found, busy, took = train(stage, folder, goal, [*options, *extra], steps, batch, workers)
    except torch.OutOfMemoryError:
        batch //= 2
        found, busy, took = train(stage, folder, f"{goal}-half", [*options, *extra], steps, batch, workers)
    first = steps // 3
    ends, starts = np.array(found["ends"]), np.array(found["starts"])
    each = np.diff(ends)[first - 1 :]
    costs |= {"step": float(each.mean()), "start": took - steps * float(each.mean())}
    rate = batch / each.mean()
    waited = float((starts[first:] - ends[first - 1 : -1]).sum() / each.sum())
    kind = "compiled" if compiled else "eager"
    note = f"{rate:.0f} images/s over the last {steps - first} of {steps} steps, {kind}, batch {batch}, "
    note += f"{workers} workers; between steps {waited:.1%}" + (
        f"; card idle {1 - busy:.1%}" if busy == busy else ""
    )
    note += f"; {costs['start']:.0f} s of start and end"
    stage.facts.setdefault("training", {})[goal] = {"images_per_s": rate, "idle": 1 - busy, "kind": kind}
    path = stage.out / "step.json"
    bare = json.loads(path.read_text())["facts"].get("images_per_s", {}) if path.is_file() else {}
    if f"live, {kind}" in bare:
        stage.goal(goal, [rate / bare[f"live, {kind}"]], seconds={"training": each}, note=note)
    else:
        row = GOALS[goal]
        stage.add(Row(row.stage, row.case, "images/s", [rate], seconds={"training": each}, note=note))
        stage.reached.add(goal)


def validity(stage: Stage) -> None:
    """Time one epoch's HC18 validity of the student: 999 images, all ages at 77 spacings with all templates."""
    own = student(stage.quick).to(stage.device)
    spacings, images = (1, 2) if stage.quick else (SPACINGS, IMAGES)
    templates = [f"{template} {'.' * i}" for i, template in enumerate((Protocol.load().biometry * 3)[:5])]
    templates = templates[:1] if stage.quick else templates
    printed = [f"{0.2 + i / 100:.2f}" for i in range(spacings)]
    side = own.preprocessing.image_size
    pixels = torch.randn(min(images, 64), 3, side, side, device=stage.device)

    def evaluate(model: Any, count: int) -> None:
        table = age_embeddings(model, templates, printed[:count])
        for begin in range(0, images, len(pixels)):
            embedded = encode_images(model, pixels[: images - begin])
            table.similarity(embedded, [printed[0]] * len(embedded)).cpu()

    for full in (True, False):
        with evaluation_mode(own, full, torch.bfloat16) as used:
            evaluate(used, 1)  # warms up
            seconds = stage.seconds(partial(evaluate, used, spacings))
        note = f"{images} images, {spacings} spacings, {len(templates) * 175} prompts each"
        if full:
            stage.goal("validity", [seconds], note=note)
        else:
            case = "HC18 validity, student, bf16 (full_precision: false)"
            stage.add(Row("GPU evaluation", case, "s an epoch", [seconds], better="lower", note=note))


def run(stage: Stage, compiled: bool) -> None:
    """Train from shards, then from squares, then evaluate; the evaluation keeps its time."""
    pictures, pairs = (16, 64) if stage.quick else (1024, 62 * 512)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        both: list[str] = []
        views: list[Preprocessing] = []
        start = time.monotonic()

        def prepare() -> None:
            write_pairs(folder, pictures, pairs)
            own, taught = student(stage.quick), teacher(stage.quick)
            both.extend(towers(folder, own, taught))
            views.extend((own.preprocessing, taught.preprocessing))

        drawn = stage.measured(GOALS["shards"], prepare, "shards", "squares")
        stage.facts["seconds of preparation"] = time.monotonic() - start
        sources = {
            "shards": [
                "shards", f"--data.urls={folder}/shards", "--data.planes_root=null", "--data.hc18_root=null",
            ],
            "squares": [
                "table", f"--data.table={folder}/files/table.csv", f"--data.cache={folder}/squares",
            ],
        }  # fmt: skip
        costs: dict[str, float] = {}
        if drawn:
            shards = partial(
                one_training, stage, "shards", [*sources["shards"], *both], compiled, folder, costs
            )
            stage.measured(GOALS["shards"], shards, "shards")
        stage.measured(GOALS["validity"], partial(validity, stage), "validity")
        release()  # the next training needs the memory

        def squares() -> None:
            start = time.monotonic()
            fill_squares(stage, sources["squares"], views, 1 if stage.quick else workers_that_fit(512))
            stage.facts["seconds of filling the cache"] = time.monotonic() - start
            one_training(stage, "squares", [*sources["squares"], *both], compiled, folder, costs)

        if drawn:
            stage.measured(GOALS["squares"], squares, "squares")
