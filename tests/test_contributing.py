"""The recipes of CONTRIBUTING.md do what they promise: each block is run as it stands there."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
import yaml
from onnxruntime.transformers.float16 import convert_float_to_float16

from datamodules import PhantomDataModule
from experiments import __main__ as command_line
from experiments.config import resolve
from experiments.sweep.local_settings import local_settings
from experiments.sweep.sweep_file import read_sweep
from export.graphs.contract import EMBEDDING_NAME
from export.graphs.onnx_graph import add_metadata
from export.graphs.pixel_graph import PixelEncoder
from export.parity.ledger import embedding_figures, read_gates
from export.variants import ENCODER_FILE, ExportContext, Variant, write_onnx_variants
from losses import Embeddings
from metrics.benchmarks import BENCHMARKS, Benchmark, benchmarks_of
from models.student.onnx_files import onnx_runner
from tests.conftest import write_image
from tests.export.conftest import fastvit

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "tests/experiments/sweep/phantom_small.yaml"
PROMPTS = ROOT / "tests/experiments/sweep/phantom_small_prompts.json"
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def recipe(title):
    """Return the block under a heading."""
    section = re.search(rf"## Add an? {title}\n(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)[1]
    (block,) = re.findall(r"```(?:python|yaml)\n(.*?)```", section, re.DOTALL)
    return block


def test_every_recipe_is_short_and_tested():
    titles = re.findall(r"## Add an? ([\w ]+)", PAGE)
    assert titles == [
        "loss", "callback", "experiment", "sweep", "benchmark", "corpus", "export variant", "command",
    ]  # fmt: skip
    assert all(len(recipe(title).splitlines()) <= 10 for title in titles)


def test_a_loss():
    names = {}
    exec(recipe("loss"), names)
    unit = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    total = names["ClampedLoss"]()(Embeddings(unit, unit, torch.tensor(10.0)), None)["total"]
    assert float(total) == pytest.approx((0.3 + 0.3) / 4)


def test_a_corpus_is_split_and_its_benchmark_scores_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(recipe("corpus"), names)
    planes = ["brain", "femur", "other"] * 10
    rows = {"file": [f"{n}.png" for n in range(30)], "patient": [f"p{n // 2}" for n in range(30)]}
    folder = tmp_path / "data" / "clinic"
    folder.mkdir(parents=True)
    pd.DataFrame({**rows, "plane": planes}).to_csv(folder / "clinic.csv", index=False)
    for number, name in enumerate(rows["file"]):
        write_image(folder / name, number)
    preset = yaml.safe_load((ROOT / "experiments/recipes/data/table-small.yaml").read_text())["data"][
        "init_args"
    ]
    sizes = {name: value for name, value in preset.items() if name != "table"}
    data = names["ClinicDataModule"](**sizes | {"num_workers": 0, "cache": None})
    scored = {
        split: [record.name for record in data.evaluation_records("planes", split)]
        for split in ("train", "val", "test")
    }
    assert all(record.image.is_file() for record in data.records)
    expected = {name for name, plane in zip(rows["file"], planes, strict=True) if plane != "other"}
    assert sorted([*scored["train"], *scored["val"], *scored["test"]]) == sorted(expected)
    patient = dict(zip(rows["file"], rows["patient"], strict=True))
    parts = [{patient[name] for name in found} for found in scored.values()]
    assert len(set().union(*parts)) == sum(map(len, parts))


def test_a_sweep_runs_here_with_options_that_exist(tmp_path):
    (tmp_path / "sweep.yaml").write_text(recipe("sweep"))
    sweep = read_sweep(tmp_path / "sweep.yaml")
    settings, space = local_settings(sweep)
    assert (settings.method, settings.run_cap, settings.metric.name) == ("random", 20, "best/composite")
    config = resolve("srkd", "phantom", [f"--{name}=1" for name in space])
    assert config.model.learning_rate == config.model.loss.init_args.temperature == 1


def test_a_command_counts_the_weights(tmp_path, capsys):
    names = {}
    exec(recipe("command"), names)
    torch.save({"state_dict": {"a": torch.zeros(2, 3), "b": torch.zeros(4)}}, tmp_path / "x.ckpt")
    names["main"]([str(tmp_path / "x.ckpt")])
    assert capsys.readouterr().out == "10\n"
    assert "usage: sonodistill weigh PATH" in names["__doc__"]


def test_an_export_variant_is_written_and_runs(tmp_path):
    names = {"onnx": onnx, "convert_float_to_float16": convert_float_to_float16, "Variant": Variant}
    names |= {
        "ENCODER_FILE": ENCODER_FILE,
        "EMBEDDING_NAME": EMBEDDING_NAME,
        "onnx_runner": onnx_runner,
        "add_metadata": add_metadata,
    }
    exec(f"from __future__ import annotations\n{recipe('export variant')}", names)
    context = ExportContext(tmp_path, PixelEncoder(fastvit([24, 96])).eval(), {}, {})
    write_onnx_variants(context, dynamic_batch=True)
    names["write_half"](context)
    exact, half = context.variants
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64)).astype(np.float32)
    assert (half.name, half.gate in read_gates()) == ("onnx-fp16", True)
    assert embedding_figures(exact.run(pixels), half.run(pixels))["cosine_min"] > 0.999
    assert context.artifacts["onnx-fp16"]["batch"] == context.artifacts["onnx-fp32"]["batch"]
    assert context.artifacts["onnx-fp16"]["bytes"] < 0.7 * context.artifacts["onnx-fp32"]["bytes"]


def test_a_benchmark_an_experiment_a_loss_and_a_callback_of_ones_own_make_a_run(
    tmp_path, small_phantom, monkeypatch, capsys
):
    """The record and its prompts put the benchmark into selection, results.json and the report."""
    (benchmark,) = eval(f"[{recipe('benchmark')}]", {"Benchmark": Benchmark})
    monkeypatch.setitem(BENCHMARKS, benchmark.name, benchmark)
    monkeypatch.setattr(PhantomDataModule, "benchmarks", benchmarks_of("planes", "hc18"))  # as at import
    prompts = json.loads(PROMPTS.read_text())
    prompts["four_planes"] = {
        name: prompts["planes"][name] for name in ("brain", "abdomen", "heart", "femur")
    }
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    (tmp_path / "my_losses.py").write_text(recipe("loss"))
    (tmp_path / "my_callbacks.py").write_text(recipe("callback"))
    (tmp_path / "clamped.yaml").write_text(recipe("experiment"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(sys, "argv", ["experiments"])
    monkeypatch.setattr("experiments.runs.cli.plots.write_all", lambda *_: None)
    command_line.run([
        "fit", "--config=clamped.yaml", f"--config={SMALL}", "--run=r", "--model.teacher=null",
        "--biometry.benchmarks=[]", "--planes.protocol=prompts.json", "--trainer.logger=false",
        "--trainer.callbacks+=my_callbacks.PrintScale", "--data.cache=null", "--planes.most_prompts=1",
        "--planes.figures=false", "--data.batch_size=16", *small_phantom,
    ])  # fmt: skip
    run = tmp_path / "outputs/clamped/r"
    record = json.loads((run / "results.json").read_text())
    assert 0 <= record["metrics"]["student/four_planes/f1"] <= 1
    assert len(record["details"]["student"]["four_planes"]["per_class"]) == 4
    assert "four-plane F1" in (run / "report.html").read_text()
    assert "logit scale " in capsys.readouterr().out
    assert "my_losses.ClampedLoss" in (run / "config.yaml").read_text()
