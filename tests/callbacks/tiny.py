"""A student, a teacher and a corpus small enough to train in a test, with the parts that tracking reads."""

from types import SimpleNamespace

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader

PAIRS, BATCH = 32, 8


def quiet_trainer(folder, *callbacks, **options):
    """Return a trainer on the CPU that neither logs, saves nor prints unless `options` say so."""
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return Trainer(
        **{"default_root_dir": folder, "callbacks": list(callbacks), "accelerator": "cpu"} | quiet | options
    )


class Losses(Callback):
    """The total loss of every batch."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.values.append(module.terms["total"].item())


class TinyTowers(nn.Module):
    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.preprocessing = SimpleNamespace(image_size=4, context_length=5)
        self.image = nn.Linear(48, 6)
        self.text = nn.Embedding(50, 6)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.log_logit_scale = nn.Parameter(torch.tensor(1.0))

    @property
    def logit_scale(self):
        return self.log_logit_scale.exp()

    def encode_image(self, image):
        return normalize(self.image(image.flatten(1)), dim=-1)

    def encode_text(self, tokens):
        return normalize(self.text(tokens).mean(dim=1), dim=-1)


class TinyModule(LightningModule):
    """Learns pairs with CLIP's loss; `scores` are the composite of one evaluation after the other."""

    def __init__(self, scores=(0.2, 0.6, 0.4), teacher=True):
        super().__init__()
        self.student = TinyTowers(0)
        self.teacher = TinyTowers(1).requires_grad_(False) if teacher else None
        self.scores = scores

    def _loss(self, batch):
        image = self.student.encode_image(batch["student_image"])
        logits = self.student.logit_scale * image @ self.student.encode_text(batch["student_tokens"]).T
        return nn.functional.cross_entropy(logits, torch.arange(len(logits)))

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train/loss/total", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss/total", self._loss(batch), batch_size=len(batch["name"]))

    def on_validation_epoch_end(self):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), lr=0.1)


class TinyData(LightningDataModule):
    simulated = True

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        images = torch.rand(PAIRS, 3, 4, 4, generator=generator)
        tokens = torch.randint(0, 50, (PAIRS, 5), generator=generator)
        self.pairs = [
            {
                "student_image": images[i],
                "teacher_image": images[i],
                "student_tokens": tokens[i],
                "teacher_tokens": tokens[i],
                "caption_id": i // 2,  # neighbours share a caption
                "name": f"image-{i}.png",
                "plane": "brain" if i % 2 else "femur",
            }
            for i in range(PAIRS)
        ]

    def train_dataloader(self):
        return DataLoader(self.pairs, batch_size=BATCH, shuffle=False)

    def val_dataloader(self):
        return DataLoader(self.pairs, batch_size=16)
