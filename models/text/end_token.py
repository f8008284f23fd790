"""Skip computation of a text tower that does not affect the end token.

In a causal tower the columns after the longest text of a batch do not. With any mask, only the end token of the last
block's output is used, so its queries and MLP are computed for that token only.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


def is_tracing() -> bool:
    """Return whether a graph of fixed shape is being traced, in which no column may be cut."""
    tracing: bool = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return tracing


def ends(tokens: Tensor, end_id: int | None) -> Tensor:
    """Return the position of each text's end token, [B].

    `end_id` is None where the end token is the largest of all ids, as in CLIP's vocabulary.
    """
    return tokens.argmax(dim=-1) if end_id is None else (tokens == end_id).int().argmax(dim=-1)


def up_to_longest_end(tokens: Tensor, end_id: int | None = None) -> Tensor:
    """Cut columns after the last end token of the batch: [B, L] to [B, M], M <= L.

    Exact for a causal tower with end-token pooling: later columns do not affect the end token. Tokens on a GPU stay as
    they are, because reading the longest end would wait for it: cut them before they go there (`columns_of`).
    """
    if is_tracing() or tokens.device.type != "cpu" or not len(tokens):  # len() would fix an exported batch
        return tokens
    return tokens[:, : int(ends(tokens, end_id).max()) + 1]


def end_token_tower(model: nn.Module) -> Any:
    """Return a model's open_clip text tower if `end_token_features` supports it, else None.

    Supported are towers with open_clip's standard blocks and end-token pooling.
    """
    tower: Any = model if isinstance(model, CLIP) else getattr(model, "text", None)
    pool = getattr(tower, "text_pool_type", None) or getattr(tower, "pool_type", None)
    if getattr(tower, "cls_emb", None) is not None or pool not in ("argmax", "eos"):
        return None
    stack = tower.transformer
    return tower if stack.batch_first and type(stack.resblocks[-1]) is ResidualAttentionBlock else None


def end_token_features(tower: Any, tokens: Tensor) -> Tensor:
    """Compute open_clip's ``encode_text`` of tokens [B, L] without the parts that do not affect the end tokens.

    `tower` is one from `end_token_tower`; the unnormalised features [B, D] equal its own.
    """
    pool = getattr(tower, "text_pool_type", None) or tower.pool_type
    end_id = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if pool == "eos" else None
    mask = tower.attn_mask
    used = tokens if mask is None else up_to_longest_end(tokens, end_id)
    length = used.shape[1]
    mask = None if mask is None else mask[:length, :length]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(used).to(dtype) + tower.positional_embedding[:length].to(dtype)
    if getattr(tower, "use_pad_mask", False):
        padding = tower._build_additive_mask(used, length, dtype)  # a mask a text and head
        mask = padding if mask is None else mask + padding
    *blocks, last = tower.transformer.resblocks
    for block in blocks:
        x = block(x, attn_mask=mask)
    x = tower.ln_final(_at(ends(used, end_id), last, x, mask))
    projection = tower.text_projection
    if projection is None:
        return x  # type: ignore[no-any-return]
    projected: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return projected


def _at(places: Tensor, block: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return a block's output at one position of each text: places [B], x [B, M, W] -> [B, W].

    The mask is [M, M], or [B * heads, M, M] where texts have their own.
    """
    texts = torch.arange(len(x), device=x.device)
    own, seen = x[texts, places, None], block.ln_1(x)
    if mask is not None:  # nn.MultiheadAttention takes one row a text and head
        heads = block.attn.num_heads
        rows = mask[places, None] if mask.dim() == 2 else mask[texts * heads, places, None]
        mask = rows.repeat_interleave(heads, dim=0)
    own = own + block.ls_1(block.attention(block.ln_1(own), seen, seen, attn_mask=mask))
    output: Tensor = own + block.ls_2(block.mlp(block.ln_2(own)))
    return output[:, 0]
