"""Labels of a user's own table, joined to the pictures of an archive by keyed hashes."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import pandas as pd

from datamodules.ingest.source_files import file_id, pseudonym
from models.messages import one_line

KEYS = ("file", "patient", "study")
LABELS = ("caption", "plane", "brain_plane", "ga_days", "ga_weeks", "hc_mm", "split")


def keyed_labels(labels: pd.DataFrame, secret: str, files: Collection[str]) -> pd.DataFrame:
    """Return a table whose columns file, patient or study hold paths or identifiers of the source, as hashes.

    Of its other columns only `LABELS` are taken, as they are.

    Args:
        labels: The cells as text, indexed by row number; columns in lower case.
        secret: Key of the hashes.
        files: Ids of the files of the source.

    Raises:
        ValueError: Columns or values cannot be used, or no row names a file of the source.
    """
    labels = labels.copy()
    unique = labels.columns.is_unique
    keys = [key for key in KEYS if unique and key in labels.columns and labels[key].notna().any()]
    taken = [name for name in LABELS if name in labels.columns]
    if not keys or not taken:
        found = one_line(", ".join(labels.columns), 200)
        raise ValueError(
            f"--labels: needs one of the columns {', '.join(KEYS)} with values, and one of {', '.join(LABELS)}, "
            f"each once; it has {len(labels)} rows of {found}; --column=file=NAME gives your column's name"
        )
    for key in keys:
        if (empty := labels[key].isna()).any():
            raise ValueError(
                f"--labels, row {empty.idxmax()}: {key} is empty; a picture is found by all of {', '.join(keys)}"
            )
    if "hc_mm" in taken and "file" not in keys:
        unclear = labels["hc_mm"].notna() & (labels["plane"].isna() if "plane" in taken else True)
        if unclear.any():
            raise ValueError(
                f"--labels, row {unclear.idxmax()}: hc_mm needs a column file or plane: a head circumference belongs "
                "to one picture, not to all of a patient or study"
            )
    for key in keys:
        labels[key] = [
            file_id(secret, value) if key == "file" else pseudonym(secret, key, value)
            for value in labels[key]
        ]
    # After the hashing, which makes one of the spellings of a path.
    if (twice := labels.duplicated(keys)).any():
        raise ValueError(f"--labels, row {twice.idxmax()}: appears twice by {', '.join(keys)}")
    if "file" in keys and not {*labels["file"]} & {*files}:
        raise ValueError(
            f"--labels: no row names a file of the source, the first is row {labels.index[0]}; give paths below the "
            "source folder"
        )
    for name in {"ga_days", "ga_weeks", "hc_mm"} & {*taken}:
        with suppress(ValueError):  # else ages such as 20+3 or decimal commas, which `read_table` reads
            labels[name] = pd.to_numeric(labels[name])
    return labels[[*keys, *taken]]


def join_labels(table: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, list[int]]:
    """Add the labels to the pictures; also return the rows of labels without a picture.

    Raises:
        ValueError: No row fits a picture, or an age by patient would go to several examinations.
    """
    keys = [key for key in KEYS if key in labels.columns]
    ages = [name for name in ("ga_days", "ga_weeks") if name in labels.columns]
    if keys == ["patient"] and ages:
        studies = labels["patient"].map(table.groupby("patient")["study"].nunique())
        if (several := (studies > 1) & labels[ages].notna().any(axis=1)).any():
            row = several.idxmax()
            raise ValueError(
                f"--labels, row {row}: an age, but this patient has {studies[row]:.0f} studies (examinations): add a "
                "column study or file"
            )
    keyed = table.assign(file=table["source"])
    joined = keyed.merge(labels, on=keys, how="left", indicator=True).drop(columns="file")
    if len(table) and (joined["_merge"] == "left_only").all():
        raise ValueError(f"--labels: none of its rows fits an image by {', '.join(keys)}")
    numbered = labels[keys].rename_axis("row").reset_index()
    unused = numbered.merge(keyed[keys].drop_duplicates(), on=keys, how="left", indicator=True)
    return joined.drop(columns="_merge"), unused.loc[unused["_merge"] == "left_only", "row"].tolist()
