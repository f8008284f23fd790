"""Image-text retrieval: recall at k in both directions."""

from __future__ import annotations

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)
_ROWS_AT_ONCE = 1024


def positive_rank(query: Tensor, candidate: Tensor, identity: Tensor | None = None) -> Tensor:
    """Return the number of candidates [N] ranked before the first correct one; ties are broken by candidate number.

    Args:
        query: Unit-length embeddings [N, D]; row i belongs to candidate i.
        candidate: Unit-length embeddings [N, D].
        identity: Caption numbers [N]; candidates with the number of the query are all correct. None if all differ.
    """
    count = len(query)
    numbers = torch.arange(count, device=query.device)
    own = numbers if identity is None else identity.to(query.device)
    ranks = []
    for rows in numbers.split(_ROWS_AT_ONCE):
        similarity = query[rows].float() @ candidate.float().T
        right = own[rows][:, None] == own[None, :]
        best = similarity.masked_fill(~right, -torch.inf).max(dim=1, keepdim=True).values
        first = torch.where(right & (similarity == best), numbers, count).min(dim=1, keepdim=True).values
        before = (similarity > best) | ((similarity == best) & (numbers < first))
        ranks.append(before.sum(dim=1))
    return torch.cat(ranks)


def retrieval_scores(image: Tensor, text: Tensor, caption_id: Tensor | None = None) -> dict[str, float]:
    """Return recall at 1, 5 and 10, ``image_to_text_r1`` to ``text_to_image_r10``, each in [0, 1].

    Args:
        image: Unit-length image embeddings [N, D].
        text: Unit-length caption embeddings [N, D], row by row those of the images.
        caption_id: Number of each caption [N], equal for equal captions: retrieving any copy is correct.

    Raises:
        ValueError: An embedding is not finite.
    """
    finite = (image.isfinite() & text.isfinite()).all(dim=1)
    if not finite.all():
        row = int(finite.int().argmin())
        raise ValueError(f"retrieval: the embeddings of row {row} are not finite; the model has diverged")
    directions = {"image_to_text": (image, text), "text_to_image": (text, image)}
    scores = {}
    for name, (query, candidate) in directions.items():
        ranks = positive_rank(query, candidate, caption_id)
        for k in RECALL_AT:
            scores[f"{name}_r{k}"] = float((ranks < k).double().mean())
    return scores
