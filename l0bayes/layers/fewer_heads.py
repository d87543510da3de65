"""Multi-head attention that has lost some of its heads."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)
from torch.nn.utils.rnn import pad_sequence

from l0bayes.compat import SEPARATE_PROJECTIONS


class FewerHeads(nn.MultiheadAttention):
    """Multi-head attention with some of its heads removed.

    ``nn.MultiheadAttention`` insists on ``embed_dim / head_dim`` heads. Here ``head_dim`` stays what it was and
    ``num_heads`` says how many heads are left: ``in_proj_weight`` is ``(3 * num_heads * head_dim, embed_dim)``,
    ``in_proj_bias`` as long, and ``out_proj.weight`` is ``(embed_dim, num_heads * head_dim)``. Parameters have the
    names they have there.

    A copy of an ``nn.MultiheadAttention`` that :func:`supports` accepts becomes one in place, by assigning
    ``__class__``, ``num_heads`` and :data:`~l0bayes.compat.SEPARATE_PROJECTIONS`. The last keeps
    ``nn.TransformerEncoderLayer`` from handing the weights to a fused kernel that knows whole sets of heads only.

    Args:
        embed_dim: features of queries, keys, values and outputs.
        num_heads: heads that are left.
        head_dim: features per head; divides ``embed_dim``.
        dropout: probability that an attention weight is dropped in training.
        bias: whether the projections have biases.
        batch_first: whether sequences come as ``(batch, length, features)``, not ``(length, batch, features)``.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: if ``head_dim`` does not divide ``embed_dim``, or there are not so many heads to keep.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        batch_first: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if embed_dim < 1 or head_dim < 1 or embed_dim % head_dim:
            raise ValueError(f"head_dim must divide embed_dim; got {head_dim} and {embed_dim}")
        total = embed_dim // head_dim
        if not 1 <= num_heads <= total:
            raise ValueError(f"num_heads must be from 1 to embed_dim / head_dim = {total}, got {num_heads}")
        super().__init__(embed_dim, total, dropout, bias, batch_first=batch_first, device=device, dtype=dtype)
        self.num_heads = num_heads
        vars(self).update(SEPARATE_PROJECTIONS)
        width = num_heads * head_dim
        self.in_proj_weight = _first_rows(self.in_proj_weight, width)
        if bias:
            self.in_proj_bias = _first_rows(self.in_proj_bias, width)
        self.out_proj.weight = nn.Parameter(self.out_proj.weight.detach()[:, :width].clone())
        self.out_proj.in_features = width

    def forward(  # noqa: PLR0917 (torch's signature)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor | None]:
        """Attends as ``nn.MultiheadAttention`` does, with the heads that are left.

        Args:
            query: ``(N, L, E)`` if ``batch_first``, else ``(L, N, E)``; ``(L, E)`` for a single sequence.
            key: as ``query``, of length S.
            value: of the shape of ``key``.
            key_padding_mask: ``(N, S)``, or ``(S,)`` for a single sequence: True at keys to leave out, or what to
                add to their scores.
            need_weights: whether to return the attention weights too.
            attn_mask: ``(L, S)``, or ``(N * num_heads, L, S)`` counting the heads that are left; True at pairs to
                leave out, or what to add to their scores.
            average_attn_weights: whether to return the weights' mean over the heads that are left, or each head's.
            is_causal: a hint that ``attn_mask`` is the causal mask.

        Returns:
            The output, and the attention weights or ``None``.

        Raises:
            ValueError: if shapes or types do not fit together.
            RuntimeError: if ``is_causal`` comes without ``attn_mask``.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            itself = query is key and key is value and query.layout == torch.strided
            if not (itself and self.batch_first and key_padding_mask is None and attn_mask is None):
                # Neither can the full attention.
                raise ValueError("nested tensors need self-attention with batch_first=True and no masks")
            return self._attend_nested(query, need_weights=need_weights, average=average_attn_weights)
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask: pass the causal mask as attn_mask as well")
        # As in torch, the hint replaces the mask where nothing else needs it.
        hinted = is_causal and key_padding_mask is None and not need_weights
        batched = _check_inputs(query, key, value, 0 if self.batch_first else 1)
        q, k, v = (self._by_head(x, batched=batched) for x in self._project(query, key, value))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        lengths = (q.shape[0], q.shape[2], k.shape[2])
        mask = self._merge(None if hinted else attn_mask, key_padding_mask, lengths, query.dtype)
        heads, weights = self._attend(q, k, v, mask, need_weights=need_weights, is_causal=hinted)
        output = F.linear(heads.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if query is key and key is value:
            return F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        bias = cast("Tensor | None", self.in_proj_bias)
        biases = (None, None, None) if bias is None else bias.chunk(3)
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), biases, strict=True)
        return tuple(F.linear(x, weight, b) for x, weight, b in parts)

    def _by_head(self, x: Tensor, *, batched: bool) -> Tensor:
        """A projection as ``(batch, heads, length, head_dim)``."""
        x = x.unflatten(-1, (self.num_heads, self.head_dim))
        if not batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.transpose(1, 2)

    def _merge(
        self, attn_mask: Tensor | None, padding: Tensor | None, lengths: tuple[int, int, int], dtype: torch.dtype
    ) -> Tensor | None:
        """What the masks together add to the scores, in a shape that expands to theirs."""
        batch, target, source = lengths
        merged: Tensor | None = None
        if attn_mask is not None:
            per_head = (batch * self.num_heads, target, source)
            if tuple(attn_mask.shape) not in ((target, source), per_head):
                raise ValueError(
                    f"attn_mask has shape {tuple(attn_mask.shape)}; with {self.num_heads} heads left it must be "
                    f"{(target, source)} for all heads alike, or {per_head} for each head that is left"
                )
            merged = _additive(attn_mask, "attn_mask", dtype)
            if merged.dim() == len(per_head):
                merged = merged.unflatten(0, (batch, self.num_heads))
        if padding is not None:
            if tuple(padding.shape) != (batch, source):
                raise ValueError(f"key_padding_mask must have an entry per key: {batch} x {source} in all")
            extra = _additive(padding, "key_padding_mask", dtype)[:, None, None]
            merged = extra if merged is None else merged + extra
        return merged

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, need_weights: bool, is_causal: bool
    ) -> tuple[Tensor, Tensor | None]:
        if not need_weights:
            dropout = self.dropout if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal), None
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return weights @ v, weights

    def _attend_nested(self, x: Tensor, *, need_weights: bool, average: bool) -> tuple[Tensor, Tensor | None]:
        """Self-attention to sequences of several lengths.

        nn.TransformerEncoder makes these of its padding mask in evaluation. It decides that when it is constructed,
        so that no attribute set here later on can keep it from doing so.
        """
        rows = x.unbind()
        padded = pad_sequence(list(rows), batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=x.device)
        absent = torch.arange(padded.shape[1], device=x.device) >= lengths[:, None]
        # forward, as the module was called once and its hooks have run.
        output, weights = self.forward(
            padded, padded, padded, absent, need_weights=need_weights, average_attn_weights=average
        )
        if weights is not None:
            weights = weights.masked_fill(absent[:, :, None] if average else absent[:, None, :, None], 0.0)
        kept = [out[: len(row)] for out, row in zip(output, rows, strict=True)]
        return torch.nested.as_nested_tensor(kept, layout=torch.strided), weights


def supports(module: nn.MultiheadAttention) -> bool:
    """Whether heads can be removed from an attention: one packed projection, no keys and values of its own.

    A subclass has a ``forward`` that is not known, and does not qualify.
    """
    known = type(module) in {nn.MultiheadAttention, FewerHeads}
    packed = dict(module.named_parameters(recurse=False)).get("in_proj_weight") is not None
    return known and packed and module.bias_k is None and module.bias_v is None and not module.add_zero_attn


def _first_rows(packed: Tensor, number: int) -> nn.Parameter:
    """The first rows of each of the three projections that a tensor holds."""
    return nn.Parameter(torch.cat([part[:number] for part in packed.detach().chunk(3)]))


def _check_inputs(query: Tensor, key: Tensor, value: Tensor, batch_dim: int) -> bool:
    """Whether the sequences come in batches; what would be broadcast unnoticed raises."""
    batched = query.dim() == 3  # noqa: PLR2004 (batch, length, features)
    if (not batched and query.dim() != 2) or key.dim() != query.dim():  # noqa: PLR2004
        raise ValueError(f"query and key must both have 2 or 3 dimensions, got {query.dim()} and {key.dim()}")
    if key.shape != value.shape:
        raise ValueError(f"key and value must have one shape, got {tuple(key.shape)} and {tuple(value.shape)}")
    if batched and query.shape[batch_dim] != key.shape[batch_dim]:
        raise ValueError(f"query has {query.shape[batch_dim]} sequences and key has {key.shape[batch_dim]}")
    return batched


def _additive(mask: Tensor, name: str, dtype: torch.dtype) -> Tensor:
    """A mask as what it adds to the scores."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))
    if not mask.is_floating_point():
        raise ValueError(f"{name} must be boolean or floating, got {mask.dtype}")
    return mask
