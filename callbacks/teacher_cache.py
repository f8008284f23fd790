"""Train on stored teacher embeddings of the data module's augmentation draws."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from callbacks.tracking.console import progress_bar
from datamodules import FetalDataModule, PairShardsDataModule
from datamodules.pairs.stores import TeacherStore
from models.checkpoints.integrity import tensors_digest
from models.files import digest

CHECKED = 8
TOLERANCE = {False: 1e-3, True: 1e-2}
"""Largest difference in a checked embedding of numbers of at most 1, by whether half precision takes part.

bfloat16 changes those of a ViT-L/14 by 1.5e-3, on a GPU differently in a batch of another size; those of two images
differ by 3e-2 already with random weights.
"""

Keys = list[tuple[int, int]]


class TeacherCache(Callback):
    """Store the teacher's embeddings of the ``data.draws`` augmentation draws of every training image.

    Before the first epoch the teacher embeds what is not stored yet; later runs with the same teacher, data,
    augmentation and seed reuse it. The losses are those of the live teacher. A store takes ``draws x images x 2 x D``
    numbers: 0.6 GB for 8 draws of 12,400 images and D = 768 in float32. It pays off from the second use of a draw:
    more epochs than draws, or further runs. Does nothing for a loss without a teacher.

    Args:
        folder: Folder of all stores, visible to every process.
        half: Store float16: half the size, embeddings accurate to about 5e-4.
    """

    def __init__(self, folder: str = "data/cache/teacher", half: bool = False) -> None:
        self.folder = Path(folder)
        self.half = half
        self.store: TeacherStore | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the store, embed what is not stored yet, and pass it to the data module.

        Not in `on_fit_start`: by then the workers of the training loader have started to read.

        Raises:
            ValueError: The data are not indexable image files, or ``data.draws`` is null.
        """
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.store = None
        if stage != TrainerFn.FITTING or not module.needs_teacher:
            return
        if not isinstance(data, FetalDataModule) or isinstance(data, PairShardsDataModule):
            raise ValueError(
                f"TeacherCache: {type(data).__name__} reads a stream whose pairs have no index; "
                "remove the callback, or train from image files"
            )
        if data.draws is None:
            raise ValueError("TeacherCache: data.draws is null; set it, for example --data.draws=8")
        store = self._open(trainer, module, data)
        # Every process trains on the stored draws, or none does.
        self.store = store if trainer.strategy.reduce_boolean_decision(store is not None) else None
        data.use_teacher_store(self.store)
        if self.store is not None:
            self._fill(trainer, module, data, self.store)

    def _fill(self, trainer: Trainer, module: Any, data: FetalDataModule, store: TeacherStore) -> None:
        # Lightning converts and moves the module after the `setup` hooks.
        trainer.precision_plugin.convert_module(module.teacher).to(trainer.strategy.root_device)
        missing = self._missing(trainer, module, data, store) if trainer.is_global_zero else []
        missing = trainer.strategy.broadcast(missing)
        share = missing[trainer.global_rank :: trainer.world_size]
        done = 0
        with progress_bar("teacher cache", " pairs") as progress:
            for batch, keys in _batches(data, share):
                store.put(keys, *_embed(trainer, module, batch))
                done += len(keys)
                progress(done, len(share))
        store.rows.close()
        trainer.strategy.barrier()

    def _open(self, trainer: Trainer, module: Any, data: FetalDataModule) -> TeacherStore | None:
        images, dim = len(data.split("train")), module.teacher.embed_dim
        assert data.draws is not None
        path = self.folder / f"{self._digest(trainer, module, data)}.embeddings"
        try:
            store = TeacherStore(path, data.draws, images, dim, self.half)
        except OSError as error:
            warnings.warn(
                f"TeacherCache: {path}: {error.strerror or error}; training runs the teacher at every step",
                stacklevel=2,
            )
            return None
        rank_zero_info(
            f"teacher cache: {data.draws} draws of {images} images, {store.rows.size / 1e6:.0f} MB in {path}"
        )
        return store

    def _digest(self, trainer: Trainer, module: Any, data: FetalDataModule) -> str:
        files = [(record, record.image.stat()) for record in data.split("train")]
        return digest(
            {
                "views": [m.preprocessing.to_dict() for m in (module.student, module.teacher)],
                "recipe": module.teacher.recipe(),
                "weights": tensors_digest(module.teacher.state_dict()),
                "precision": str(trainer.precision),
                "augmentation": None if data.augmentation is None else asdict(data.augmentation),
                "seed": data.seed,
                "on_error": data.on_error,
                "store": [data.draws, self.half],
                "images": [f"{record}|{file.st_size}|{file.st_mtime_ns}" for record, file in files],
            }
        )

    def _missing(self, trainer: Trainer, module: Any, data: FetalDataModule, store: TeacherStore) -> Keys:
        """Return the keys to embed: all of them if the present code draws or embeds differently."""
        missing = store.missing()
        absent = set(missing)
        stored = (key for key in product(range(store.draws), range(store.images)) if key not in absent)
        for batch, keys in _batches(data, list(islice(stored, CHECKED))):
            fresh = torch.stack(_embed(trainer, module, batch), dim=1).float().cpu()
            kept = torch.stack([store.get(*key) for key in keys])
            half = self.half or str(trainer.precision).startswith(("16", "bf16"))
            if not (fresh - kept).abs().max() <= TOLERANCE[half]:
                rank_zero_warn(f"{store.rows.path}: written by other code; all embeddings are recomputed")
                store.rows.clear()
                return store.missing()
        return missing


def _batches(data: FetalDataModule, keys: Keys) -> Iterator[tuple[dict[str, Any], Keys]]:
    """Yield batches with the keys of their pairs."""
    rest = iter(keys)
    for batch in data.draw_loader(keys) if keys else ():
        yield batch, list(islice(rest, len(batch["index"])))


def _embed(trainer: Trainer, module: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed a batch as the training step would: same device, same precision."""
    device = trainer.strategy.root_device
    image = trainer.precision_plugin.convert_input(batch["teacher_image"]).to(device)
    tokens = batch["teacher_tokens"].to(device)
    with torch.no_grad(), trainer.precision_plugin.forward_context():
        embedded: tuple[torch.Tensor, torch.Tensor] = module.teacher(image, tokens)
    return embedded
