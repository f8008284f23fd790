"""Corpora: readers, captions, transforms and the LightningDataModules over them."""

from datamodules.base import FetalDataModule
from datamodules.fetal_planes import FetalPlanesDataModule, read_fetal_planes
from datamodules.hc18 import HC18DataModule, read_hc18
from datamodules.pair_shards import PairShardsDataModule
from datamodules.phantom_datamodule import PhantomDataModule
from datamodules.record import Record
from datamodules.transforms import Augmentation

__all__ = [
    "Augmentation",
    "FetalDataModule",
    "FetalPlanesDataModule",
    "HC18DataModule",
    "PairShardsDataModule",
    "PhantomDataModule",
    "Record",
    "read_fetal_planes",
    "read_hc18",
]
