"""Embed images, or image-caption pairs, over all processes, each once.

Images are preprocessed as in the published evaluation, not as in training: a model's embeddings must not depend on
the other model of a run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.evaluation.dataset import EvaluationDataset, collate_evaluation, evaluation_workers
from datamodules.pairs.loaders import PlainErrorLoader
from datamodules.pairs.sample import fixed_caption
from datamodules.pairs.sampler import process_rank
from datamodules.record import Record
from models import DualEncoder
from models.zero_shot import encode_images

Pairs = dict[str, Any]


def embed_images(model: DualEncoder, records: list[Record], batch_size: int, num_workers: int) -> Tensor:
    """Embed images.

    Args:
        model: In eval mode.
        records: The images, distributed over the processes.
        batch_size: Images per batch.
        num_workers: Worker processes of the loader.

    Returns:
        Unit-length features [N, D], float32 on the CPU, in the order of `records`, in every process.
    """
    device = next(model.parameters()).device
    features, rows = [torch.empty(0, model.embed_dim)], []
    for batch in _own_share(model, records, batch_size, num_workers):
        features.append(encode_images(model, batch["image"].to(device)).float().cpu())
        rows += batch["index"].tolist()
    ordered: Tensor = _in_order({"features": torch.cat(features), "rows": rows})["features"]
    return ordered


def embed_pairs(
    model: DualEncoder, records: list[Record], seed: int, batch_size: int, num_workers: int
) -> Pairs:
    """Embed images and their captions.

    Args:
        model: In eval mode.
        records: The images of a split, distributed over the processes.
        seed: The data module's seed, which selects the captions.
        batch_size: Pairs per batch.
        num_workers: Worker processes of the loader.

    Returns:
        ``image`` and ``text`` [N, D], ``tokens`` [N, L] on the CPU, ``plane`` and ``brain_plane`` (N names), in
        the order of `records`, in every process.
    """
    device = next(model.parameters()).device
    tensors: dict[str, list[Tensor]] = {
        "image": [torch.empty(0, model.embed_dim)],
        "text": [torch.empty(0, model.embed_dim)],
        "tokens": [torch.empty(0, model.preprocessing.context_length, dtype=torch.int64)],
    }
    lists: dict[str, list[Any]] = {"rows": [], "plane": [], "brain_plane": []}
    for batch in _own_share(model, records, batch_size, num_workers):
        places = zip(*(batch[key].tolist() for key in ("index", "height", "width")), strict=True)
        texts = [
            fixed_caption(records[index], (height, width), model.preprocessing, seed, index)
            for index, height, width in places
        ]
        tokens = model.tokenize(texts)
        tensors["image"].append(encode_images(model, batch["image"].to(device)).float().cpu())
        tensors["text"].append(model.encode_text(tokens.to(device)).float().cpu())
        tensors["tokens"].append(tokens)
        lists["rows"] += batch["index"].tolist()
        for key in ("plane", "brain_plane"):
            lists[key] += batch[key]
    return _in_order({**{key: torch.cat(parts) for key, parts in tensors.items()}, **lists})


def _own_share(
    model: DualEncoder, records: list[Record], batch_size: int, num_workers: int
) -> DataLoader[dict[str, Any]]:
    dataset = EvaluationDataset(records, model.preprocessing, *process_rank())
    return PlainErrorLoader(
        dataset,
        batch_size=batch_size,
        num_workers=evaluation_workers(num_workers),
        collate_fn=collate_evaluation,
    )


def _in_order(own: Pairs) -> Pairs:
    """Join the parts of all processes and sort them by ``rows``."""
    every = [own]
    if dist.is_available() and dist.is_initialized():
        every = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(every, own)
    rows = [row for part in every for row in part["rows"]]
    order = sorted(range(len(rows)), key=rows.__getitem__)
    joined: Pairs = {}
    for key, value in own.items():
        parts = [part[key] for part in every]
        if isinstance(value, Tensor):
            joined[key] = torch.cat(parts)[order]
        else:
            values = [item for part in parts for item in part]
            joined[key] = [values[row] for row in order]
    return joined
