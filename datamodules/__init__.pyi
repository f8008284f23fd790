from .base import FetalDataModule
from .corpora.public import FetalPlanesDataModule, HC18DataModule
from .corpora.fetal_planes import read_fetal_planes
from .corpora.hc18 import read_hc18
from .corpora.table import read_table
from .corpora.table_data import TableDataModule
from .pairs.transforms import Augmentation
from .phantom.datamodule import PhantomDataModule
from .record import Record
from .shards.pair_shards import PairShardsDataModule

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
