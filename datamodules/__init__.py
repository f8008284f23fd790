"""Corpora: readers, captions, transforms and the LightningDataModules over them."""

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
