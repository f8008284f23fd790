"""Embed images, or image-caption pairs, over all processes, each once.

Images are preprocessed as in the published evaluation, not as in training: a model's embeddings must not depend on
the other model of a run.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from callbacks.tracking.console import with_progress
from datamodules.evaluation.dataset import EvaluationDataset, collate_evaluation, evaluation_workers
from datamodules.pairs.loaders import PlainErrorLoader
from datamodules.pairs.sample import fixed_caption
from datamodules.pairs.sampler import process_rank
from datamodules.record import Record
from models import DualEncoder
from models.zero_shot import encode_images

Pairs = dict[str, Tensor]


def embed(
    model: DualEncoder, records: list[Record], batch_size: int, num_workers: int, seed: int | None = None,
    alone: bool = False, what: str = "images",
) -> Pairs:  # fmt: skip
    """Embed images and, with a seed, their captions; the images are distributed over the processes.

    Args:
        model: In eval mode.
        records: N images.
        batch_size: Images per batch.
        num_workers: Worker processes of the loader.
        seed: The data module's seed, which selects the captions; None embeds images only.
        alone: This process embeds all images, without the others.
        what: Name of the images beside the progress.

    Returns:
        ``image`` [N, D] and with a seed ``text`` [N, D], unit-length, float32, and ``tokens`` [N, L], on the CPU, in
        the order of `records`, in every process.

    Raises:
        RuntimeError: An image was not embedded exactly once.
    """
    device = next(model.parameters()).device
    width, length = model.embed_dim, model.preprocessing.context_length
    tensors = {"index": [torch.empty(0, dtype=torch.int64)], "image": [torch.empty(0, width)]}
    if seed is not None:
        tensors |= {"text": [torch.empty(0, width)], "tokens": [torch.empty(0, length, dtype=torch.int64)]}
    loader = PlainErrorLoader(
        EvaluationDataset(records, model.preprocessing, *((0, 1) if alone else process_rank())),
        batch_size=batch_size,
        num_workers=evaluation_workers(num_workers),
        collate_fn=collate_evaluation,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else the loader advances torch's global one
    )
    for batch in with_progress(loader, what):
        tensors["image"].append(encode_images(model, batch["image"].to(device)).float().cpu())
        tensors["index"].append(batch["index"])
        if seed is not None:
            places = zip(*(batch[key].tolist() for key in ("index", "height", "width")), strict=True)
            texts = [
                fixed_caption(records[index], (height, width), model.preprocessing, seed, index)
                for index, height, width in places
            ]
            tokens = model.tokenize(texts)
            tensors["text"].append(
                model.encode_text(tokens[:, : model.columns_of(tokens)].to(device)).float().cpu()
            )
            tensors["tokens"].append(tokens)
    own = {key: torch.cat(parts) for key, parts in tensors.items()}
    every = [own]
    _, world = process_rank()
    if world > 1 and not alone:
        every = [{} for _ in range(world)]
        dist.all_gather_object(every, own)
    joined = {key: torch.cat([part[key] for part in every]) for key in own}
    index, order = joined.pop("index").sort()
    if index.tolist() != list(range(len(records))):
        raise RuntimeError(f"{len(index)} of {len(records)} images were embedded, or one of them twice")
    return {key: value[order] for key, value in joined.items()}
