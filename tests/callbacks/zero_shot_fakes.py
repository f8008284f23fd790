"""A model that embeds texts by their letters and images by their first pixels, and data made for it."""

import numpy as np
import torch
from lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader

from datamodules.evaluation.dataset import collate_evaluation
from datamodules.evaluation.protocol import Protocol
from datamodules.pairs.sampler import process_rank
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


class LetterEncoder(DualEncoder):
    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed
        self.preprocessing = Preprocessing(SIZE, (0, 0, 0), (1, 1, 1), context_length=LENGTH)
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
            None,
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
            None,
            f"patient{i}",
            plane="brain",
            hc_mm=float(rng.uniform(90, 350)),
            pixel_size_mm=float(rng.choice([0.0613, 0.1237, 0.2])),
        )
        for i in range(count)
    ]


def picture(record, seed):
    """Deterministic image of a record: its pixels are its embedding, before normalisation."""
    rng = np.random.default_rng([seed, sum(record.name.encode())])
    return torch.tensor(rng.normal(size=(3, SIZE, SIZE)), dtype=torch.float32)


class FakeData(LightningDataModule):
    """The part of `FetalDataModule` that the evaluations use."""

    def __init__(self, benchmarks, count=23, batch_size=5):
        super().__init__()
        self.benchmarks, self.batch_size, self.count = tuple(benchmarks), batch_size, count
        self.asked = []

    def evaluation_records(self, benchmark, split):
        make = head_records if benchmark == "hc18" else plane_records
        return make(self.count, seed=len(split))

    def evaluation_loader(self, benchmark, split, preprocessing):
        assert preprocessing.image_size == SIZE
        self.asked.append((benchmark, split))
        records = self.evaluation_records(benchmark, split)
        rank, world = process_rank()
        samples = [
            {"image": picture(record, 1), "record": record, "index": index, "width": 800, "height": 540}
            for index, record in enumerate(records)
        ]
        return DataLoader(samples[rank::world], batch_size=self.batch_size, collate_fn=collate_evaluation)

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
