"""Data loaders in a Lightning trainer: on several processes and with `overfit_batches`."""

import json
import os

import pytest

from datamodules import HC18DataModule
from models import CLIP_MEAN, CLIP_STD, Preprocessing
from tests.datamodules.pairs.test_resumption import Recorder, _heads, _shards, make_trainer
from tests.metrics.two_processes import run_in_processes

SMALL = Preprocessing(16, CLIP_MEAN, CLIP_STD, tokenizer="fetal", context_length=24)


def _train(rank, world, root, out, options):
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0")
    data = HC18DataModule(root=str(root), batch_size=2, num_workers=0, evaluation_batch_size=4, val_share=0.3)
    data.bind(SMALL)
    module, runner = Recorder(), make_trainer(root, max_epochs=1, devices=world, strategy="ddp", **options)
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    names = {
        stage: [name for _, pairs in batches for name, _ in pairs] for stage, batches in module.seen.items()
    }
    if world < 4:  # Lightning refuses a process without an image
        names["predict"] = [name for batch in runner.predict(module, data) for name in batch]
    (out / f"{rank}.json").write_text(json.dumps(names))


@pytest.mark.parametrize(("world", "options"), [(2, {}), (2, {"use_distributed_sampler": False}), (4, {})])
def test_processes_share_every_pair_once(tiny_hc18, tmp_path, world, options):
    run_in_processes(world, _train, tmp_path, world, tiny_hc18, tmp_path, options)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    data = HC18DataModule(root=str(tiny_hc18), val_share=0.3)
    predicted = [name for rank in ranks for name in rank.get("predict", [])]
    assert sorted(predicted) == (sorted(record.name for record in data.split("test")) if world < 4 else [])
    for stage in ("train", "val", "test"):
        every = {record.name for record in data.split(stage)}
        parts = [rank[stage] for rank in ranks]
        assert len({len(part) for part in parts}) == 1, "they exchange embeddings: equally many each"
        seen = [name for part in parts for name in part]
        assert len(seen) == len(set(seen))
        assert set(seen) <= every
        lost = len(every) - len(seen)
        # A training epoch leaves out an incomplete batch of 2 pairs a process, too.
        assert lost < (2 * world if stage == "train" else world)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("corpus", [_heads, _shards])
def test_overfitting_sees_the_same_batches_in_every_epoch(tiny_hc18, corpus, workers):
    data, module = corpus(tiny_hc18, workers, 5), Recorder()
    data.bind(SMALL)
    make_trainer(tiny_hc18, max_epochs=2, overfit_batches=2).fit(module, data)
    for stage in ("train", "val"):
        epochs = [[pairs for epoch, pairs in module.seen[stage] if epoch == e] for e in range(2)]
        assert len(epochs[0]) == min(2, len(data.val_dataloader()) if stage == "val" else 2)
        assert epochs[0] == epochs[1]
    names = [name for _, pairs in module.seen["train"][:2] for name, _ in pairs]
    assert len(set(names)) == 10
    if corpus is _heads:
        assert names == [record.name for record in data.split("train")[:10]]
