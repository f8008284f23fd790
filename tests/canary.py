"""A module in the working directory that leaves a file behind when it is imported, and files that name it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MODULE = """
from pathlib import Path
from datamodules import Augmentation, HC18DataModule
from models import TimmEncoder
Path("imported").touch()
class Encoder(TimmEncoder):
    pass
class Data(HC18DataModule):
    pass
class Change(Augmentation):
    pass
"""


def lay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the file that importing `canary` leaves in `folder`, which becomes the working directory."""
    (folder / "canary.py").write_text(MODULE)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "canary", raising=False)
    yield folder / "imported"
    sys.modules.pop("canary", None)


def foreign_checkpoint(path: Path, nested: bool = False) -> str:
    """Write a checkpoint of an encoder that the canary's module defines."""
    import torch  # tests/conftest.py imports this module for every test

    from models import TimmEncoder

    model = TimmEncoder(
        "resnet10t", {"channels": [8, 8, 8, 8], "stem_width": 8},
        embed_dim=16, image_size=32, context_length=24, text_width=16, text_layers=1, text_heads=2,
    )  # fmt: skip
    recipe = {"class_path": "canary.Encoder", "init_args": model.init_args()}
    if nested:
        recipe = {"class_path": "models.QuantisedStudent", "init_args": {"recipe": recipe}}
    content = {
        "state_dict": {f"student.{name}": value for name, value in model.state_dict().items()},
        "student": {"recipe": recipe, "preprocessing": model.preprocessing.to_dict()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return str(path)
