"""Device, towers, pairs and trainer of the checks on a CUDA device.

Without a card every test skips; with ``GPU_CHECK_DEVICE=cpu`` the same code runs on the CPU.
"""

import copy
import os

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # deterministic matrix products; read at the first one

import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn
from torch.utils.data import Dataset

from callbacks import OffDiagonalSchedule, StepSeed
from datamodules.pairs.loaders import ResumableLoader, resume_position
from datamodules.pairs.sampler import EpochSampler
from lightning_modules import DistillationModule
from losses import SRKDLoss
from models import DualEncoder, OpenCLIPEncoder, Preprocessing, TimmEncoder
from tests.callbacks.tiny import Losses

VARIABLE = "GPU_CHECK_DEVICE"
BATCH, PAIRS = 8, 16
VIT = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
}


@pytest.fixture(scope="session")
def device():
    """The device under test; ``cpu`` in a dry run."""
    if os.environ.get(VARIABLE) == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip(f"needs a CUDA device; {VARIABLE}=cpu runs the same code on the CPU")
    return "cuda"


@pytest.fixture
def card(device):
    """The device, where a check means nothing on a CPU."""
    if device == "cpu":
        pytest.skip("means nothing on a CPU: it has no asynchronous kernels and no allocator statistics")
    return device


def without_tf32():
    """Switch TF32 off by flags that torch.compile can read; within `models.zero_shot.without_tf32` it may fail."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _settings():
    """Compute without TF32, and restore what a check changes for the whole process."""
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    without_tf32()
    torch.manual_seed(0)
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags
    torch.use_deterministic_algorithms(False)
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def small_fastvit():
    """A real trunk with depthwise convolutions, batch norm and a narrow strided convolution; not to be changed."""
    torch.manual_seed(1)
    return TimmEncoder(
        "fastvit_t8", {"embed_dims": [8, 16, 32, 64], "layers": [1, 1, 1, 1]}, embed_dim=24, image_size=64,
        text_width=32, text_layers=1, text_heads=2, context_length=40,
    ).eval()  # fmt: skip


@pytest.fixture(scope="session")
def _vit():
    torch.manual_seed(2)
    return OpenCLIPEncoder("small", configuration=VIT)


@pytest.fixture
def teacher(_vit):
    """A small vision transformer with a causal text tower, as FetalCLIP's."""
    return copy.deepcopy(_vit)


class ConvolutionalTowers(DualEncoder):
    """One convolution with batch norm and a mean of word vectors: compiled in seconds."""

    def __init__(self, seed, side, embed_dim):
        super().__init__()
        torch.manual_seed(seed)
        self.embed_dim = embed_dim
        self.preprocessing = Preprocessing(side, (0.5,) * 3, (0.5,) * 3, tokenizer="fetal", context_length=24)
        layers = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.image = nn.Sequential(*layers, nn.Linear(8, embed_dim))
        self.text = nn.Embedding(4096, embed_dim)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def image_features(self, image):
        return self.image(image)

    def text_features(self, tokens):
        return self.text(tokens).mean(dim=1)

    @property
    def log_logit_scale(self):
        return self.scale

    def init_args(self):
        return {"seed": 0, "side": self.preprocessing.image_size, "embed_dim": self.embed_dim}


@pytest.fixture
def build(tiny_student, teacher):
    """Return a function that builds the module from the same weights every time."""

    def module(**options):
        settings = {"loss": SRKDLoss(), "learning_rate": 1e-3, "warmup_steps": 1, **options}
        towers = settings.pop("student", tiny_student), settings.pop("teacher", teacher)
        own, taught = map(copy.deepcopy, towers)
        return DistillationModule(own.train(), taught, **settings)

    return module


def pairs_of(student, teacher, count=PAIRS, seed=3):
    """Return a batch of random images and captions; neighbours share a caption."""
    generator = torch.Generator().manual_seed(seed)
    texts = [
        f"ultrasound of the fetal {('brain', 'femur', 'abdomen')[i // 2 % 3]}, {i // 2} mm"
        for i in range(count)
    ]
    batch = {"caption_id": torch.arange(count) // 2, "name": [f"image-{i}" for i in range(count)]}
    for role, model in (("student", student), ("teacher", teacher)):
        side = model.preprocessing.image_size
        batch[f"{role}_image"] = torch.randn(count, 3, side, side, generator=generator)
        batch[f"{role}_tokens"] = model.tokenize(texts)
    return batch


def to_device(batch, device):
    """Move a batch, as Lightning does."""
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }


class Keyed(Dataset):
    """Pairs by (epoch, index), as a resumable sampler asks for them."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch["name"])

    def __getitem__(self, key):
        return {name: values[key[1]] for name, values in self.batch.items()}


class Pairs(LightningDataModule):
    """The product's resumable loader over `pairs_of`."""

    def __init__(self, module, count=PAIRS, pinned=False):
        super().__init__()
        self.dataset, self.pinned = Keyed(pairs_of(module.student, module.teacher, count)), pinned

    def train_dataloader(self):
        sampler = EpochSampler(len(self.dataset), seed=0)
        epoch, batch = resume_position(self.trainer)
        sampler.start_at(epoch, batch * BATCH)
        return ResumableLoader(
            self.dataset,
            batch_size=BATCH,
            sampler=sampler,
            pin_memory=self.pinned,
            order={"batch_size": BATCH},
        )


def trainer_on(device, folder, precision="32-true", callbacks=(), scaler=None, **options):
    """Return a trainer on the device; float16 with its scaler also on a CPU, where Lightning would take bfloat16."""
    how = {"precision": precision}
    if precision == "16-mixed" and (device == "cpu" or scaler is not None):
        how = {"plugins": [MixedPrecision("16-mixed", device, scaler)]}
    settings = {
        "max_epochs": 2, "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(one, Checkpoint) for one in callbacks),
        "num_sanity_val_steps": 0, "gradient_clip_val": 1.0, **how, **options,
    }  # fmt: skip
    return Trainer(
        default_root_dir=folder, accelerator=device, devices=1,
        callbacks=[OffDiagonalSchedule(), StepSeed(0), *callbacks], **settings,
    )  # fmt: skip


def fit(module, device, folder, callbacks=(), checkpoint=None, count=PAIRS, **options):
    """Train and return the total loss of every batch."""
    losses = Losses()
    trainer = trainer_on(device, folder, callbacks=[losses, *callbacks], **options)
    data = Pairs(module, count, pinned=device == "cuda")
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return losses.values


def state_of(module):
    """Return a copy of the student's parameters on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in module.student.named_parameters()}
