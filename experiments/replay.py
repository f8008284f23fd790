"""Repeat a step at which a run stopped because its loss was not finite."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from lightning import Fabric
from torch import nn

from callbacks.safety.steps import CAPTURE
from experiments.plain_errors import built
from experiments.process import Parser
from lightning_modules import DistillationModule
from losses.base import scheduled_weight
from models import DualEncoder, build
from models.checkpoints.integrity import tensors_digest
from models.checkpoints.trust import TRUST, apply_trust, check_classes
from models.checkpoints.weights import load_into, read_checkpoint
from models.files import read_yaml
from models.loading import TEACHER_PREFIX

TRUE_PRECISIONS = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "16-true": torch.float16}


def replay(argv: list[str]) -> int:
    """Repeat a step whose loss was not finite (see `callbacks.StopOnNonFiniteLoss`); 0 if its terms are the same."""
    parser = Parser(prog="sonodistill replay", description=replay.__doc__)
    parser.add_argument("folder", type=Path, help=f"the run's folder, its {CAPTURE}/ or a file there")
    parser.add_argument(TRUST, action="store_true", help="build classes that the run's settings name")
    folder = parser.parse_args(argv).folder
    apply_trust(argv)
    if folder.suffix != ".pt":
        folder = (folder if folder.name == CAPTURE else folder / CAPTURE) / "rank0.pt"
    path, settings = folder, folder.parent.parent / "config.yaml"
    step, config = read_checkpoint(path), read_yaml(settings)
    if not {"student", "random", "batch"} <= set(step):
        raise ValueError(f"{path}: not a captured step, which a run leaves when its loss is not finite")
    if tensors_digest(step["state_dict"]) != step["weights"]:
        raise ValueError(f"{path}: its weights do not match their digest")
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ValueError(f"{settings}: lacks model, so teacher and loss cannot be built")
    model = config["model"]
    check_classes(model, str(settings))
    fabric = Fabric(devices=1, precision=step["precision"])
    student = build(step["student"]["recipe"], str(path))
    module = DistillationModule(
        student,
        built(DualEncoder, model.get("teacher")),
        built(nn.Module, model.get("loss")),
        grad_cache_chunk=model.get("grad_cache_chunk"),
    )
    own = {name: value for name, value in module.state_dict().items() if name.startswith(TEACHER_PREFIX)}
    load_into(module, {**step["state_dict"], **own}, str(path))
    if scheduled := scheduled_weight(module.loss):
        setattr(*scheduled, step["scheduled"])
    module.to(fabric.device, TRUE_PRECISIONS.get(step["precision"], torch.float32)).train()
    torch.set_rng_state(step["random"])
    if "random_cuda" in step and torch.cuda.is_available():
        torch.cuda.set_rng_state(step["random_cuda"])
    with fabric.autocast():
        terms = module.compute_loss(fabric.to_device(step["batch"]))
    found = {name: float(value.detach()) for name, value in terms.items()}
    print(
        f"step {step['step']} (epoch {step['epoch']}, batch {step['batch_number']}), weights {step['weights']}"
    )
    if step["processes"] > 1:
        print(f"of {step['processes']} processes this repeats one: the run's loss saw the pairs of all")
    for name, value in found.items():
        print(f"  {name}: {value:.6g}, in the run {step['terms'].get(name, math.nan):.6g}")
    inputs = {k: v for k, v in step["batch"].items() if k.startswith(("student_", "teacher_"))}
    for name, value in {**step["state_dict"], **inputs}.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.isfinite().all():
            print(f"  not finite: {name}, {int((~value.isfinite()).sum())} of {value.numel()} numbers")
    before = step["terms"]
    # In half precision a GPU may have trained with TF32 products.
    tolerance = 1e-5 if step["precision"] in ("32-true", "64-true") else 1e-3
    same = found.keys() == before.keys() and np.allclose(
        [found[name] for name in before], [*before.values()], rtol=tolerance, equal_nan=True
    )
    return 0 if same else 1
