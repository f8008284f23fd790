"""The code of docs/embed.md runs, and trains with the loss that it promises."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from lightning import Trainer
from open_clip_train.train import train_one_epoch
from torch import nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

from tests.export.guide_code import guide_code

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "embed.md"
STEPS, BATCH = 8, 6


class Tiny(nn.Module):
    """A dual encoder of images [B, 3, 8, 8] and tokens [B, 5]."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.image, self.text = nn.Linear(192, width), nn.EmbeddingBag(50, width)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def encode_image(self, images):
        return normalize(self.image(images.flatten(1)), dim=1)

    def encode_text(self, tokens):
        return normalize(self.text(tokens), dim=1)

    @property
    def logit_scale(self):
        return self.log_scale.exp()


@pytest.fixture
def batches():
    torch.manual_seed(0)
    return [(torch.randn(BATCH, 3, 8, 8), torch.randint(1, 50, (BATCH, 5)))] * STEPS


def code(mark):
    (block,) = guide_code("python", f"tested: {mark}", GUIDE)
    return block


def by_hand(student, teacher, weight, temperature=5.0):
    """SRKD from logits [B, B] of both models, one direction at a time."""
    total = 0.0
    for z, t in ((student, teacher), (student.T, teacher.T)):
        q, p = z.log_softmax(1), (t / temperature).softmax(1)
        matched = q.diagonal().mean() + (p * q).diagonal().mean()
        total = total - (matched + weight * ((p * q).sum() / len(p) - (p * q).diagonal().mean())) / 2
    return total


def test_plain_pytorch(batches):
    student, teacher = Tiny(16, 1), Tiny(24, 2)
    names = {"student": student, "teacher": teacher, "batches": batches}
    before = copy.deepcopy(student)
    exec(code("pytorch"), names)
    assert names["srkd"].off_diagonal_weight == pytest.approx(2 - 2.8 * (STEPS - 1) / STEPS)
    images, texts = batches[0]

    def logits(model):
        return model.logit_scale * model.encode_image(images) @ model.encode_text(texts).T

    with torch.no_grad():
        first = by_hand(logits(before), logits(teacher), names["srkd"].off_diagonal_weight)
        last = by_hand(logits(student), logits(teacher), names["srkd"].off_diagonal_weight)
        own, target = (
            (m.encode_image(images), m.encode_text(texts), m.logit_scale) for m in (student, teacher)
        )
        loss = names["srkd"](names["Embeddings"](*own), names["Embeddings"](*target))["total"]
    assert float(loss) == pytest.approx(float(last), rel=1e-5)  # float32
    assert last < first - 0.1, "it trains"


def test_open_clips_own_loop(batches):
    tower = {"image_size": 8, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8}
    text = {"context_length": 5, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    student, teacher = (
        open_clip.CLIP(width, tower, text, output_dict=True) for width in (12, 20)
    )  # fmt: skip
    names: dict = {}
    exec(code("open_clip"), names)
    loss = names["SRKD"](STEPS)
    args = SimpleNamespace(
        device="cpu", precision="fp32", distill=True, accum_freq=1, skip_scheduler=True, horovod=False,
        grad_clip_norm=None, rank=0, local_rank=0, log_every_n_steps=1, batch_size=BATCH, world_size=1, wandb=False,
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None)
    loader.num_batches, loader.num_samples = STEPS, STEPS * BATCH
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda _: None)}
    logged = []
    writer = SimpleNamespace(add_scalar=lambda name, value, step: logged.append((name, step, value)))
    images, texts = batches[0]
    with torch.no_grad():
        pairs = [model(images, texts) for model in (student, teacher)]
        s, t = (x["logit_scale"] * x["image_features"] @ x["text_features"].T for x in pairs)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    train_one_epoch(student, data, loss, 0, optimizer, None, None, teacher, args, writer)
    values = [value for name, _, value in logged if name == "train/srkd"]
    assert values[0] == pytest.approx(float(by_hand(s, t, 2.0)), rel=1e-4)  # float32, logits near 14
    assert (len(values), loss.step) == (STEPS, STEPS)
    assert loss.srkd.off_diagonal_weight == pytest.approx(2 - 2.8 * (STEPS - 1) / STEPS)
    with torch.no_grad():
        after = student(images, texts)
        trained = after["logit_scale"] * after["image_features"] @ after["text_features"].T
        assert by_hand(trained, t, -0.45) < by_hand(s, t, -0.45) - 0.1


def test_a_lightning_module(batches, tmp_path):
    names: dict = {}
    exec(code("lightning"), names)
    student, teacher = Tiny(16, 1), Tiny(24, 2)
    frozen = copy.deepcopy(teacher.state_dict())
    before = copy.deepcopy(student.state_dict())
    module = names["SRKDMethod"](student, teacher)
    loader = DataLoader([{"views": [images], "tokens": texts} for images, texts in batches], batch_size=None)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert module.srkd.off_diagonal_weight == pytest.approx(2 - 2.8 * (STEPS - 1) / STEPS)
    assert {"train/total", "train/contrastive", "train/diagonal", "train/off_diagonal"} <= set(
        trainer.callback_metrics
    )
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())
    assert not any(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_the_metrics():
    names: dict = {}
    exec(code("metrics"), names)
    assert 21 < names["weeks"] < 23  # a head of 200 mm: about 22 weeks
    assert bool(names["valid"])
