"""Cut what a causal text tower cannot see anyway: the columns behind the longest text of a batch."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn


def is_tracing() -> bool:
    """Say whether a graph of one fixed shape is being recorded; then nothing may be cut."""
    tracing: bool = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return tracing


def ends(tokens: Tensor, end_id: int | None) -> Tensor:
    """Return the place of each text's end token, [B].

    Args:
        tokens: Token ids [B, L].
        end_id: Id of the end token; None where it is the largest of all ids, as in CLIP's vocabulary.
    """
    return tokens.argmax(dim=-1) if end_id is None else (tokens == end_id).int().argmax(dim=-1)


def up_to_longest_end(tokens: Tensor, end_id: int | None = None) -> Tensor:
    """Cut columns behind the last end token of the batch: [B, L] to [B, M], M <= L.

    Exact for a tower that is causal and read at the end token: nothing behind it reaches that place.

    Args:
        tokens: Token ids [B, L].
        end_id: As for `ends`.
    """
    if not len(tokens) or is_tracing():
        return tokens
    return tokens[:, : int(ends(tokens, end_id).max()) + 1]


def causal_tower(model: nn.Module) -> Any:
    """Return the module that holds an open_clip model's text tower if `truncated_features` can run it.

    Returns:
        The tower: causal and pooled at the end token. None for any other.
    """
    tower: Any = model if isinstance(model, CLIP) else getattr(model, "text", None)
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    plain = getattr(tower, "cls_emb", None) is None and not getattr(tower, "use_pad_mask", False)
    causal = getattr(tower, "attn_mask", None) is not None
    return tower if causal and plain and pool in ("argmax", "eos") else None


def truncated_features(tower: Any, tokens: Tensor) -> Tensor:
    """Do what open_clip's ``encode_text`` does, over the used columns alone.

    Args:
        tower: What `causal_tower` returned.
        tokens: Token ids [B, L].

    Returns:
        Unnormalised features [B, D], equal to the tower's own.
    """
    pool = getattr(tower, "text_pool_type", None) or tower.pool_type
    end_id = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if pool == "eos" else None
    used = up_to_longest_end(tokens, end_id)
    length = used.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(used).to(dtype) + tower.positional_embedding[:length].to(dtype)
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    x = text_global_pool(x, used, pool, eos_token_id=end_id)
    projection = tower.text_projection
    if projection is None:
        return x  # type: ignore[no-any-return]
    projected: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return projected
