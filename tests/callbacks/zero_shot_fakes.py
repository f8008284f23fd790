"""A model that embeds texts by their letters and images by their first pixels, and data made for it."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader

from datamodules.evaluation.protocol import Protocol
from datamodules.record import Record
from models import DualEncoder, Preprocessing

DIM, SIZE, LENGTH = 24, 4, 40
PROTOCOL = Protocol(
    planes={
        name: [f"the {name}", f"a {name} scan"]
        for name in ("abdomen", "brain", "femur", "heart", "kidney", "cervix")
    },
    subplanes={f"trans-{name}": [f"{name} view"] for name in ("thalamic", "cerebellum", "ventricular")},
    biometry=["{weeks}w {days}d {spacing}", "{spacing} mm: {weeks} and {days}"],
)
FOLDER = tempfile.TemporaryDirectory()


class LetterEncoder(DualEncoder):
    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed
        self.preprocessing = Preprocessing(SIZE, (0.5,) * 3, (0.25,) * 3, context_length=LENGTH)
        self.embed_dim = DIM
        generator = torch.Generator().manual_seed(seed) if seed else None
        self.letters = nn.Parameter(torch.randn(128, LENGTH, DIM, generator=generator))
        self.scale = nn.Parameter(torch.zeros(()))
        self.dropout, self.still = nn.Dropout(0.5), nn.Dropout(0.5)
        self.image_calls = 0

    def image_features(self, image):
        self.image_calls += 1
        return self.still(self.dropout(image.flatten(1)[:, :DIM])) + 0 * self.letters[0, 0]

    def text_features(self, tokens):
        return self.dropout(self.letters[tokens, torch.arange(LENGTH)].sum(dim=1))

    def tokenize(self, texts):
        return torch.tensor([list(text.encode().ljust(LENGTH)) for text in texts])

    @property
    def log_logit_scale(self):
        return self.scale

    def init_args(self):
        return {"seed": 0}

    def of_text(self, text):
        """The embedding of a text, by another route than the towers."""
        table = self.letters.detach().double().numpy()
        vector = table[list(text.encode().ljust(LENGTH)), range(LENGTH)].sum(axis=0)
        return vector / np.linalg.norm(vector)


def plane_records(count, seed=0):
    rng = np.random.default_rng(seed)
    planes = ["brain", "abdomen", "heart", "femur", "cervix"]
    brains = ["trans-thalamic", "trans-cerebellum", "trans-ventricular"]
    return [
        Record(
            "planes",
            f"p{i}",
            image_file(f"p{i}"),
            f"patient{i // 2}",
            plane=planes[i % 5],
            brain_plane=brains[rng.integers(3)],
        )
        for i in range(count)
    ]


def head_records(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Record(
            "hc18",
            f"h{i}_HC.png",
            image_file(f"h{i}_HC.png"),
            f"patient{i}",
            plane="brain",
            hc_mm=float(rng.uniform(90, 350)),
            pixel_size_mm=float(rng.choice([12.26, 24.74, 40.0])),
        )
        for i in range(count)
    ]


def image_file(name):
    """Write the image of a record, of the models' size, with pixels that depend on its name alone."""
    path = Path(FOLDER.name) / f"{name}.png"
    if not path.is_file():
        rng = np.random.default_rng([1, sum(name.encode())])
        cv2.imwrite(str(path), rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    return path


def picture(record):
    """Return the normalised pixels of a record; the first are its embedding, before normalisation to length 1."""
    pixels = cv2.imread(str(record.image))[:, :, ::-1].transpose(2, 0, 1)
    return torch.tensor((pixels / 255 - 0.5) / 0.25)


class FakeData(LightningDataModule):
    """The part of `FetalDataModule` that the evaluations use."""

    num_workers = 0

    def __init__(self, benchmarks, count=23, batch_size=5):
        super().__init__()
        self.benchmarks, self.evaluation_batch_size, self.count = tuple(benchmarks), batch_size, count
        self.asked = []

    def evaluation_records(self, benchmark, split):
        self.asked.append((benchmark, split))
        make = head_records if benchmark == "hc18" else plane_records
        return make(self.count, seed=len(split))

    def train_dataloader(self):
        return DataLoader(torch.zeros(2, 1), batch_size=1)

    val_dataloader = test_dataloader = train_dataloader


class FakeModule(LightningModule):
    def __init__(self, teacher=True):
        super().__init__()
        self.student = LetterEncoder(seed=1)
        self.teacher = LetterEncoder(seed=2).eval() if teacher else None
        self.logged = []

    def log(self, name, value, **kwargs):
        self.logged.append((self.trainer.current_epoch, name, float(value)))
        super().log(name, value, **kwargs)

    def training_step(self, batch, batch_idx):
        return self.student.scale.sum()

    def validation_step(self, batch, batch_idx):
        return None

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.student.parameters(), lr=0.0)
