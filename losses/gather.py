"""The only collective code of the losses: what one process needs of the others.

Convention. Rank r of W holds b of the B = W b pairs and computes the loss of ITS rows against ALL
columns, L_r; the loss of the joint batch is L = mean_r L_r. Columns are gathered with gradients, so the
backward pass of rank r leaves dL_0 + ... + dL_{W-1} = W dL in the embeddings of its own rows.
DistributedDataParallel then AVERAGES parameter gradients over ranks, which divides by W: every parameter
ends with exactly the gradient of the joint batch, the logit scale included. Every rank must bring the same
number of pairs (drop the last, incomplete batch).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def world_size() -> int:
    """Return the number of processes that share a batch: 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's place among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of every process, in rank order.

    Args:
        rows: This process's rows [b, ...]; the same shape everywhere.

    Returns:
        The rows of all processes [W b, ...], differentiable in every process's part if `rows` is.
    """
    if world_size() == 1:
        return rows
    rows = rows.contiguous()
    if rows.requires_grad:
        return torch.cat(tuple(all_gather(rows)))
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def with_joint_values(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each scalar its mean over all processes as VALUE, while its GRADIENT stays that of this process.

    So every rank logs, and checks for NaN, the loss of the joint batch.
    """
    if world_size() == 1 or not terms:
        return terms
    local = torch.stack([term.detach() for term in terms.values()])
    joint = local.clone()
    dist.all_reduce(joint)
    joint /= world_size()
    correction = joint - local
    return {name: term + correction[k] for k, (name, term) in enumerate(terms.items())}


def sum_over_ranks(values: Tensor) -> None:
    """Add up `values` over all processes, in place and without gradient."""
    if world_size() > 1:
        dist.all_reduce(values)


def all_agree(condition: bool) -> bool:
    """Return whether `condition` holds on every process, so that all of them take the same path."""
    if world_size() == 1:
        return condition
    flag = torch.tensor(float(condition), device=_collective_device())
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag)


def _collective_device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
