"""The public corpora that this project knows: where they come from and what they should hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.african_planes import AFRICAN_PLANES_TABLE, read_african_planes
from datamodules.fetal_planes import FETAL_PLANES_TABLE, FetalPlanesDataModule, read_fetal_planes
from datamodules.hc18 import HC18_TABLE, HC18DataModule, read_hc18
from datamodules.record import Record


@dataclass(frozen=True)
class Corpus:
    """A public data set.

    Attributes:
        name: What commands and records call it.
        title: Its own name.
        table: File name of its table, by which a folder is recognised.
        source: Where it is published.
        licence: Under which licence.
        citation: The article that describes it.
        published: Published numbers of images, patients and labels, by the names `counts` gives.
        read: Reads the records under a folder; names of missing images go to the list.
        assign_splits: Sets the splits that training uses, given the folder and the records.
    """

    name: str
    title: str
    table: str
    source: str
    licence: str
    citation: str
    published: dict[str, int]
    read: Callable[[Path, list[str]], list[Record]]
    assign_splits: Callable[[Path, list[Record]], list[Record]]


def counts(records: list[Record]) -> dict[str, int]:
    """Count images, patients, planes and brain planes."""
    result = {"images": len(records), "patients": len({record.patient for record in records})}
    for record in records:
        for kind, value in (("plane", record.plane), ("brain plane", record.brain_plane)):
            if value is not None:
                result[f"{kind} {value}"] = result.get(f"{kind} {value}", 0) + 1
    return result


def _all_training(root: Path, records: list[Record]) -> list[Record]:  # noqa: ARG001
    return [replace(record, split="train") for record in records]


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="hc18",
            title="HC18",
            table=HC18_TABLE,
            source="https://doi.org/10.5281/zenodo.1327317",
            licence="CC BY 4.0",
            citation="van den Heuvel et al. 2018, doi:10.1371/journal.pone.0200412",
            published={"images": 999, "patients": 806, "plane brain": 999},
            read=read_hc18,
            assign_splits=lambda root, records: HC18DataModule(str(root)).assign_splits(records),
        ),
        Corpus(
            name="planes",
            title="FETAL_PLANES_DB",
            table=FETAL_PLANES_TABLE,
            source="https://doi.org/10.5281/zenodo.3904280",
            licence="CC BY 4.0",
            citation="Burgos-Artizzu et al. 2020, doi:10.1038/s41598-020-67076-5",
            published={
                "images": 12400,
                "patients": 1792,
                "plane other": 4213,
                "plane brain": 3092,
                "plane heart": 1718,
                "plane cervix": 1626,
                "plane femur": 1040,
                "plane abdomen": 711,
                "brain plane trans-thalamic": 1638,
                "brain plane trans-cerebellum": 714,
                "brain plane trans-ventricular": 597,
            },
            read=read_fetal_planes,
            assign_splits=lambda root, records: FetalPlanesDataModule(str(root)).assign_splits(records),
        ),
        Corpus(
            name="african",
            title="Maternal fetal ultrasound planes from five African countries",
            table=AFRICAN_PLANES_TABLE,
            source="https://doi.org/10.5281/zenodo.7540448",
            licence="CC BY 4.0",
            citation="Sendra-Balcells et al. 2023, doi:10.1038/s41598-023-29490-3",
            published={"images": 450, "patients": 125},
            read=read_african_planes,
            assign_splits=_all_training,
        ),
    )
}


def corpus_named(name: str) -> Corpus:
    """Return a corpus.

    Raises:
        ValueError: There is none of that name; the message lists them.
    """
    if name not in CORPORA:
        raise ValueError(f"{name}: no such corpus; choose from {', '.join(CORPORA)}")
    return CORPORA[name]


def find_corpora(root: Path) -> dict[str, Path]:
    """Return the folder of each corpus at most two levels beneath `root`, recognised by its table.

    Raises:
        FileNotFoundError: `root` does not exist or holds no known table.
        ValueError: A corpus is there twice.
    """
    found: dict[str, Path] = {}
    for name, corpus in CORPORA.items():
        tables = [path for depth in ("", "*/", "*/*/") for path in sorted(root.glob(depth + corpus.table))]
        if len(tables) > 1:
            raise ValueError(
                f"{root}: {corpus.title} is there twice: {tables[0]} and {tables[1]}; name one folder"
            )
        if tables:
            found[name] = tables[0].parent
    if not found:
        tables_known = ", ".join(corpus.table for corpus in CORPORA.values())
        raise FileNotFoundError(f"{root}: no corpus here or two folders down; looked for {tables_known}")
    return found
