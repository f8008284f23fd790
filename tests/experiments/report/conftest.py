"""Run folders with every file of a finished run, generated with the project's own metrics."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.special import softmax

from experiments.report import page, write_report
from metrics import classification_scores, gestational_age_weeks, within_chart
from metrics.benchmarks import BENCHMARKS, composite_score
from metrics.biometry import best_constant_age, biometry_scores, in_reference_range
from metrics.calibration import reliability
from metrics.names import EIGHT_CLASS, final_composite_name, final_name, scalars
from metrics.subgroups import subgroup_scores

PLANES = ("abdomen", "brain", "femur", "heart", "cervix")
SUBPLANES = ("trans-thalamic", "trans-cerebellum", "trans-ventricular")
STEPS = 200
LOSSES = {"no-kd": "losses.CLIPLoss", "static-kd": "losses.CoupledKDLoss"}


@cache
def classified(classes: tuple[str, ...], count: int, skill: float, seed: int) -> dict[str, Any]:
    """Details of a plane benchmark: the same images for every seed, right more often with more skill."""
    target = np.arange(count) % len(classes)
    noise = np.random.default_rng(seed).normal(size=(count, len(classes)))
    logits = noise + skill * np.eye(len(classes))[target]
    chance = softmax(logits, axis=1)
    samples = [
        {
            "name": f"Patient{row // 2:03d}_{row % 2}",
            "patient": str(row // 2),
            "target": classes[target[row]],
            "prediction": classes[int(logits[row].argmax())],
            "probability": float(chance[row].max()),
            "correct": bool(logits[row].argmax() == target[row]),
        }
        for row in range(count)
    ]
    curve = reliability([row["probability"] for row in samples], [row["correct"] for row in samples])

    def score(part: np.ndarray) -> dict[str, float]:
        f1 = classification_scores(logits[part], target[part], classes)["f1"]
        return {"f1": f1, "f1_ci_low": 0.7, "f1_ci_high": 0.99}

    machines = ["Aloka" if row % 3 else "Voluson E6" for row in range(count)]
    return classification_scores(logits, target, classes) | {
        "f1_ci_low": 0.1, "f1_ci_high": 0.95, "ece": curve["ece"], "ece_fitted": 0.01, "reliability": curve["bins"],
        "subgroups": {"machine": subgroup_scores(machines, score)},
        "n_scored": count, "samples": samples, "split": "test", "protocol": "0",
    }  # fmt: skip


@cache
def aged(count: int, skill: float, seed: int) -> dict[str, Any]:
    hc_mm = np.linspace(90, 345, count)
    error = np.random.default_rng(seed).normal(size=count) * 4 / skill
    age = np.clip(np.round(7 * (gestational_age_weeks(hc_mm) + error)), 98, 272).astype(int)
    valid, counts = within_chart(hc_mm, age / 7), in_reference_range(hc_mm)
    samples = [
        {
            "name": f"{row:03d}_HC.png", "patient": f"{row:03d}", "hc_mm": float(hc_mm[row]),
            "age_days": int(age[row]), "prediction": f"{age[row] // 7} w", "target": f"HC {hc_mm[row]:.1f} mm",
            "assessed": bool(counts[row]), "correct": bool(valid[row]),
        }
        for row in range(count)
    ]  # fmt: skip
    extra = {"subgroups": {}, "n_scored": count, "samples": samples, "split": "test", "protocol": "0"}
    ablated = {"black_image_validity": 2.1, "other_image_validity": 33.5, "one_pixel_size_validity": 30.5}
    return biometry_scores(age, hc_mm, 200, patients=[row["patient"] for row in samples]) | ablated | extra


@cache
def unread(count: int) -> dict[str, Any]:
    """Details of the heads of `aged` by answers that read no image."""
    heads = np.linspace(90, 345, count)
    facts, age = {"n_scored": count, "split": "test"}, best_constant_age(heads)
    constant = biometry_scores(np.full(count, age), heads, 200, patients=[str(n) for n in range(count)])
    pixel_size = biometry_scores(np.linspace(120, 220, count), heads, 200)
    return {
        "constant": {"hc18": constant | facts | {"age_days": age}}, "pixel_size": {"hc18": pixel_size | facts},
    }  # fmt: skip


def history(skill: float, start: float, end: float, epochs: int = 8) -> pd.DataFrame:
    steps = np.arange(0, STEPS, 5)
    share = steps / STEPS
    frame = pd.DataFrame({"step": steps, "epoch": steps * epochs // STEPS})
    if start != end:
        frame["train/off_diagonal_weight"] = start + (end - start) * share
    frame["train/loss/total"] = 4 * np.exp(-2 * share)
    frame["train/loss/off_diagonal"] = 2 * np.exp(-share)
    rows = []
    for epoch in range(epochs):
        step = (epoch + 1) * STEPS // epochs - 1
        score = skill / 4 * (epoch + 1) / epochs
        values = {"step": step, "epoch": epoch, "val/composite": score, "val/planes/f1": min(1, 1.1 * score)}
        values |= {"val/hc18/validity": 80 * score, "val/subplanes/f1": 0.9 * score}
        values |= {
            "probe/diagonal_correlation": 0.2 + 0.6 * score,
            "probe/off_diagonal_correlation": 0.5 - score,
        }
        rows.append(values | ({"val/teacher/planes/f1": 0.8} if epoch == 0 else {}))
    return pd.concat([frame, pd.DataFrame(rows)], ignore_index=True)


@cache
def jpeg(seed: int) -> str:
    noise = np.random.default_rng(seed).normal(60, 30, (64, 64)).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, format="JPEG")
    return base64.b64encode(stream.getvalue()).decode()


def evidence(names: list[str], classes: tuple[str, ...]) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    labels = [classes[number % len(classes)] for number in range(90)]
    centres = dict(zip(classes, generator.normal(size=(len(classes), 2)) * 12, strict=True))
    middle = np.array([centres[label] for label in labels])
    views = {
        model: {
            "points": (generator.normal(size=(90, 2)) * 3 + spread * middle).tolist(),
            "separation": 1 + spread, "rank": 9.0, "alignment": None if model == "teacher" else 0.5,
        }
        for model, spread in (("teacher", 0.8), ("random", 0.0), ("student", 1.2))
    }  # fmt: skip
    pictures = {name: jpeg(number) for number, name in enumerate(names)}
    return {
        "classes": {"planes": labels}, "projections": {"planes": views}, "thumbnails": pictures,
    }  # fmt: skip


RunMaker = Callable[..., Path]


@pytest.fixture
def without_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out of pages whose text matters: they take most of the time."""
    monkeypatch.setattr(page, "themed_svg", lambda *_: "")
    for name in (
        "confusion_figure",
        "confusion_change_figure",
        "draw_ages",
        "reliability_figure",
        "embedding_figure",
    ):
        monkeypatch.setattr(page, name, lambda *_, **__: None)


@pytest.fixture(scope="session")
def write_run() -> RunMaker:
    """Write a run folder below `root`; more `skill` makes a better student."""

    def write(
        root: Path,
        experiment: str = "srkd",
        run: str = "made-up-s0",
        skill: float = 3.5,
        weights: tuple[float, float] = (2.0, -0.8),
        planes: tuple[str, ...] = PLANES,
        seed: int = 1,
        with_evidence: bool = True,
    ) -> Path:
        folder = root / "outputs" / experiment / run
        folder.mkdir(parents=True)
        details = {
            model: {
                "planes": classified(planes, 150, value, number),
                "subplanes": classified(SUBPLANES, 90, value - 0.3, number + 10),
                "hc18": aged(60, value, number + 20),
            }
            for model, value, number in (("student", skill, seed), ("teacher", 2.4, 77), ("random", 0.4, 99))
        }
        details |= unread(60)
        metrics = {
            final_name(model, name, key): value
            for model, benchmarks in details.items()
            for name, scores in benchmarks.items()
            for key, value in scalars(scores).items()
        }
        for model in ("student", "teacher", "random"):
            scores = {b.name: metrics[final_name(model, b.name, b.headline)] for b in BENCHMARKS.values()}
            metrics[final_composite_name(model)] = composite_score(scores)
            metrics[final_name(model, EIGHT_CLASS, "f1")] = composite_score(
                {name: score for name, score in scores.items() if name != "hc18"}
            )
        assert all(final_name("student", b.name, b.headline) in metrics for b in BENCHMARKS.values())
        record = {
            "experiment": experiment, "data": "phantom", "seed": 0, "metrics": metrics,
            "command": ["train", experiment, "phantom", "--run=made up"],
            "selection": {
                "checkpoint": str(folder / "checkpoints/best.ckpt"), "monitor": "val/composite", "score": 0.8,
            },
            "parameters": {"student": 1_200_000, "teacher": 5_600_000}, "steps": STEPS, "scheduled_steps": STEPS,
            "seconds": 321.0,
            "finished": "2026-01-02T03:04:05+00:00", "git_commit": "0123456789abcdef-dirty",
            "versions": {"python": "3.11"}, "machine": {"cpus": 2, "device": "cpu"}, "details": details,
        }  # fmt: skip
        (folder / "results.json").write_text(json.dumps(record))
        history(skill, *weights).to_csv(folder / "metrics.csv", index=False)
        schedule = {
            "class_path": "callbacks.OffDiagonalSchedule",
            "init_args": {
                "start": weights[0],
                "end_ratio": weights[1] / weights[0],
                "shape": "linear",
                "hold": 0.5,
            },
        }
        config = {
            "seed_everything": 0, "experiment": experiment, "run": run,
            "model": {
                "teacher": {"class_path": "models.from_checkpoint", "init_args": {"path": "teacher.ckpt"}},
                "loss": {"class_path": LOSSES.get(experiment, "losses.SRKDLoss"), "init_args": {"temperature": 5.0}},
            },
            "data": {"class_path": "datamodules.PhantomDataModule", "init_args": {"batch_size": 64}},
            "trainer": {"max_epochs": 8, "default_root_dir": str(folder)},
            "schedule": schedule if weights[0] != weights[1] else None,
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if with_evidence:
            names = [
                row["name"] for name in ("planes", "hc18") for row in details["student"][name]["samples"]
            ]
            (folder / "evidence.json").write_text(json.dumps(evidence(names, planes)))
        return folder

    return write


@pytest.fixture
def make_run(tmp_path: Path, write_run: RunMaker) -> RunMaker:
    """Write a run folder below this test's temporary folder."""
    return partial(write_run, tmp_path)


@pytest.fixture(scope="session")
def single_page(write_run: RunMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one run."""
    return write_report([write_run(tmp_path_factory.mktemp("single"))])


@pytest.fixture(scope="session")
def comparison_page(write_run: RunMaker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run and of another without repulsion."""
    root = tmp_path_factory.mktemp("comparison")
    runs = [write_run(root), write_run(root, "static-kd", skill=2.5, weights=(1.0, 1.0), seed=3)]
    return write_report(runs, root / "sub" / "two.html")
