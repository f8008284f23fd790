"""Train with and without DistributedDataParallel in one process: ``python -m tests.gpu.ddp_process DEVICE FOLDER``."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy

from lightning_modules import DistillationModule
from losses import SRKDLoss
from tests.gpu.conftest import ConvolutionalTowers, fit, without_tf32


def main(device, folder):
    without_tf32()
    found = {}
    for name in ("alone", "ddp"):
        module = DistillationModule(
            ConvolutionalTowers(1, 16, 8), ConvolutionalTowers(2, 24, 12), SRKDLoss(), learning_rate=1e-3
        )
        strategy = DDPStrategy(process_group_backend="nccl" if device == "cuda" else "gloo")
        found[name] = fit(module, device, folder, strategy=strategy if name == "ddp" else "auto")
    found["backend"] = dist.get_backend()
    summed = torch.ones(3, device=device)
    dist.all_reduce(summed)
    found["summed"] = summed.tolist()
    dist.destroy_process_group()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
