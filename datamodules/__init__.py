"""Corpora: readers, captions, transforms and the LightningDataModules over them.

Names are imported on first use: what reads an export folder needs no PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.base import FetalDataModule
    from datamodules.corpora.fetal_planes import FetalPlanesDataModule, read_fetal_planes
    from datamodules.corpora.hc18 import HC18DataModule, read_hc18
    from datamodules.corpora.table import read_table
    from datamodules.corpora.table_data import TableDataModule
    from datamodules.pairs.transforms import Augmentation
    from datamodules.phantom.datamodule import PhantomDataModule
    from datamodules.record import Record
    from datamodules.shards.pair_shards import PairShardsDataModule

__all__ = [
    "Augmentation",
    "FetalDataModule",
    "FetalPlanesDataModule",
    "HC18DataModule",
    "PairShardsDataModule",
    "PhantomDataModule",
    "Record",
    "TableDataModule",
    "read_fetal_planes",
    "read_hc18",
    "read_table",
]

_HOMES = {
    "Augmentation": "datamodules.pairs.transforms",
    "FetalDataModule": "datamodules.base",
    "FetalPlanesDataModule": "datamodules.corpora.fetal_planes",
    "HC18DataModule": "datamodules.corpora.hc18",
    "PairShardsDataModule": "datamodules.shards.pair_shards",
    "PhantomDataModule": "datamodules.phantom.datamodule",
    "Record": "datamodules.record",
    "TableDataModule": "datamodules.corpora.table_data",
    "read_fetal_planes": "datamodules.corpora.fetal_planes",
    "read_hc18": "datamodules.corpora.hc18",
    "read_table": "datamodules.corpora.table",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
