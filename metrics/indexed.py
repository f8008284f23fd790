"""Base metric that keeps rows with their sample numbers, independent of the number of processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

UNNUMBERED = -1


class IndexedMetric(Metric):
    """Metric over stored rows that counts every sample once.

    With sample numbers, rows are sorted by sample and duplicates (padding of a distributed sampler) are dropped, so
    results do not depend on the number of processes. Without, rows stay in the order of arrival, process by process.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, fields: dict[str, Tensor], **kwargs: Any) -> None:
        """Declare one row state per field: an empty tensor [0, ...] with the shape and dtype of its rows."""
        super().__init__(**kwargs)
        self._empty = {"index": torch.empty(0, dtype=torch.int64), **fields}
        for name in self._empty:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._start()

    def _start(self) -> None:
        # A process without samples must still take part in gathering, with the right dtype and number of axes.
        for name, rows in self._empty.items():
            getattr(self, name).append(rows.to(self.device))

    def reset(self) -> None:
        """Remove all rows."""
        super().reset()
        self._start()

    def add_rows(self, index: Tensor | None, **rows: Tensor) -> None:
        """Store a tensor [N, ...] for every declared field, and sample numbers [N] or None for rows without.

        Raises:
            ValueError: The fields differ in length.
        """
        lengths = {name: len(values) for name, values in rows.items()}
        count = next(iter(lengths.values()))
        if index is not None:
            lengths["index"] = len(index)
        if len(set(lengths.values())) != 1:
            raise ValueError(f"{type(self).__name__}: the inputs differ in length: {lengths}")
        numbers = torch.full((count,), UNNUMBERED) if index is None else index
        for name, values in {"index": numbers, **rows}.items():
            empty = self._empty[name]
            getattr(self, name).append(values.detach().to(device=self.device, dtype=empty.dtype))

    def rows(self) -> dict[str, NDArray[Any]]:
        """Return every field (and ``index``) as an array [N, ...], in sample order, each sample once.

        Inside `compute` these are the rows of all processes; elsewhere wrap the call in `sync_context()`.

        Raises:
            ValueError: There are no rows, or only some of them have sample numbers.
        """
        arrays = {name: self._array(name) for name in self._empty}
        index = arrays["index"]
        if index.size == 0:
            raise ValueError(f"{type(self).__name__}: no sample was given; call update() before compute()")
        if (index == UNNUMBERED).all():
            return arrays
        if (index == UNNUMBERED).any():
            raise ValueError(f"{type(self).__name__}: give every sample an index, or none")
        _, first = np.unique(index, return_index=True)
        return {name: values[first] for name, values in arrays.items()}

    def _array(self, name: str) -> NDArray[Any]:
        state = getattr(self, name)
        rows = state if isinstance(state, Tensor) else torch.cat(state)
        return rows.cpu().numpy()
