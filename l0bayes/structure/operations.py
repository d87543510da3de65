"""How each kind of torch operation moves features: a rule per kind, by the operation's name.

Six kinds cover the networks of today: operations that move elements, that work element by element, that reduce over
dimensions, that slide over space, that normalise, and that multiply matrices. Whatever is none of them freezes the
features that enter it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves, tree_map_only

from l0bayes.structure.labelling import Labelling, WeightView


def _names(text: str) -> list[str]:
    return text.split()


_MOVES = _names("""
    view _unsafe_view _reshape_alias reshape permute transpose t expand slice select split split_with_sizes unbind cat
    stack squeeze unsqueeze roll flip repeat constant_pad_nd as_strided index_select narrow diagonal unfold
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle index gather repeat_interleave movedim tril
    triu rot90 chunk
""")
_COPIES = _names("clone _to_copy contiguous detach alias lift_fresh")
_POINTWISE = _names("""
    native_dropout bernoulli bernoulli_ hardswish hardswish_ prelu _prelu_kernel masked_fill masked_fill_ nan_to_num
    log_sigmoid_forward rrelu_with_noise where clamp clamp_min clamp_max rand_like randn_like
""")
_REDUCES = _names("""
    mean sum amax amin max min var std var_mean prod logsumexp linalg_vector_norm norm argmax argmin any all median
    cumsum _softmax _log_softmax softmax log_softmax
""")
_MAKES = _names("""
    zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty
    empty_strided new_empty_strided empty_permuted
""")
_OVERWRITES = ["fill_", "zero_"]
_SPATIAL = re.compile(r"(_?(adaptive_)?(max|avg)_pool|_?upsample\w*?|reflection_pad|replication_pad)(?P<dims>\d)d")
_BATCH_NORM = re.compile(r"(native|cudnn|miopen|_native)_batch_norm\w*|_batch_norm_with_update\w*")
_ATTENTION = re.compile(r"_scaled_dot_product_\w*attention\w*")


@dataclass(frozen=True)
class Call:
    """One operation of torch, with its arguments by name, defaults included, and its results."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    @property
    def name(self) -> str:
        """Its name, without namespace and overload."""
        name: str = self.func._schema.name.rpartition("::")[2]  # noqa: SLF001 (the only description it has)
        return name

    def __getitem__(self, argument: str) -> Any:
        return self.bound[argument]

    @cached_property
    def bound(self) -> dict[str, Any]:
        """Arguments by name, in the schema's order."""
        schema = self.func._schema.arguments  # noqa: SLF001
        given = {argument.name: value for argument, value in zip(schema, self.args, strict=False)} | self.kwargs
        return {a.name: given.get(a.name, a.default_value) for a in schema}

    @property
    def first_out(self) -> Any:
        """The result, or the first of several."""
        return self.out[0] if isinstance(self.out, tuple | list) else self.out


Rule = Callable[[Labelling, Call], None]


def follow(flow: Labelling, call: Call) -> None:
    """Gives the results of an operation their labels; the labelling learns what meets what."""
    if not call.func._schema.name.startswith("aten::"):  # noqa: SLF001
        _freeze(flow, call)
        return
    rule = _RULES.get(call.name)
    for pattern, candidate in _PATTERNS:
        if rule is None and pattern.match(call.name):
            rule = candidate
    if rule is None:
        rule = _pointwise if torch.Tag.pointwise in call.func.tags else _freeze
    rule(flow, call)


def _labels_of(flow: Labelling, value: Any) -> list[Tensor]:
    """The labels of all tensors in there that carry features."""
    return [labels for leaf in tree_leaves(value) if (labels := flow.labels(leaf)) is not None]


def _freeze(flow: Labelling, call: Call) -> None:
    """An operation we know nothing of: what enters it stays, and so does what comes out."""
    entering = _labels_of(flow, (call.args, call.kwargs))
    why = f"{call.name} in {flow.where}, whose effect on features is not known"
    for labels in entering:
        flow.features.freeze(labels, f"it passes through {why}")
    for value in tree_leaves(call.out) if entering else ():
        if isinstance(value, Tensor) and value.is_floating_point():
            _label_frozen(flow, value, f"it comes out of {why}")


def _label_frozen(flow: Labelling, value: Tensor, why: str) -> None:
    label = flow.features.fresh(1)
    flow.features.freeze(label, why)
    flow.label(value, label.reshape([1] * value.dim()).expand(value.shape))


# -- moving, copying, making ------------------------------------------------------------------------------------------


def _move(flow: Labelling, call: Call) -> None:
    """The same operation on the labels."""
    if flow.is_weight(call.first_out):
        return
    if call.name in ("index", "gather", "index_select"):  # integers say where from; only the source is moved
        _freeze_indices(flow, call, call.args[1:])
        labels = flow.labels(call.args[0])
        if labels is None:
            return
        result = call.func(labels, *call.args[1:], **call.kwargs)
    elif not _labels_of(flow, call.args):
        return
    elif call.name == "constant_pad_nd":
        result = call.func(flow.known(call.args[0]), call.args[1], 0)  # what it pads with is no feature
    elif call.name in ("view", "_unsafe_view"):
        result = flow.known(call.args[0]).reshape(call.out.shape)  # repeated labels may have no such view
    elif call.name == "as_strided":
        result = _as_strided(flow.known(call.args[0]), call.args[0], call.out)
    else:
        result = call.func(*tree_map_only(Tensor, flow.known, call.args), **call.kwargs)
    for tensor, labels in zip(tree_leaves(call.out), tree_leaves(result), strict=True):
        flow.label(tensor, labels)


def _freeze_indices(flow: Labelling, call: Call, indices: Any) -> None:
    for labels in _labels_of(flow, indices):
        flow.features.freeze(labels, f"{call.name} in {flow.where} uses it to say which elements to take")


def _as_strided(labels: Tensor, source: Tensor, out: Tensor) -> Tensor:
    """Labels laid out in memory as the data are."""
    dense = torch.empty_strided(source.shape, source.stride(), dtype=torch.int64).copy_(labels)
    return dense.as_strided(out.shape, out.stride(), out.storage_offset() - source.storage_offset())


def _copy(flow: Labelling, call: Call) -> None:
    if flow.is_weight(call.out) or not call.out.is_floating_point():
        return
    labels = flow.labels(call.args[0])
    if labels is not None:
        flow.label(call.out, flow.unshared(labels.expand(call.out.shape)))


def _make(flow: Labelling, call: Call) -> None:
    if call.out.is_floating_point():
        flow.blank(call.out)


def _overwrite(flow: Labelling, call: Call) -> None:
    flow.write(call["self"], None)


def _copy_into(flow: Labelling, call: Call) -> None:
    labels = flow.labels(call["src"])
    flow.write(call["self"], None if labels is None else labels.expand(call["self"].shape))


# -- element by element, and reductions -------------------------------------------------------------------------


def _pointwise(flow: Labelling, call: Call) -> None:
    """What meets in an element is tied."""
    result, entering = call.first_out, _labels_of(flow, (call.args, call.kwargs))
    if not entering or not isinstance(result, Tensor):
        return
    labels = flow.unshared(entering[0])
    for other in entering[1:]:
        labels = flow.features.tie(labels, other)
    if call.name.endswith("_"):
        flow.meet_in_place(result, labels.expand(result.shape))
    else:
        flow.label(result, labels.expand(result.shape))


def _reduce(flow: Labelling, call: Call) -> None:
    """What is reduced over is tied, since each part of it has a say in the result."""
    if isinstance(call.bound.get("other"), Tensor):  # max and min of two tensors
        _pointwise(flow, call)
        return
    labels = flow.labels(call["self"])
    if labels is None:
        return
    dims = call.bound.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(labels.dim()))
    dims = sorted({dim % labels.dim() for dim in dims}) if labels.dim() else []
    why = f"{call.name.strip('_')} in {flow.where} works on all of its features at once"
    merged = flow.features.merge(labels, dims, why)
    for value in tree_leaves(call.out):
        if isinstance(value, Tensor):
            kept = merged if value.dim() == labels.dim() else merged.squeeze(dims)
            flow.label(value, kept.expand(value.shape))


def _glu(flow: Labelling, call: Call) -> None:
    """One half gates the other."""
    labels = flow.labels(call["self"])
    if labels is not None:
        first, second = labels.chunk(2, call["dim"])
        flow.label(call.out, flow.features.tie(first, second))


def _embedding(flow: Labelling, call: Call) -> None:
    """A row of a table: its columns are features, whichever row is read."""
    labels = flow.labels(call["weight"])
    _freeze_indices(flow, call, call["indices"])
    if labels is not None:
        flow.label(call.out, flow.features.merge(labels, [0])[0].expand(call.out.shape))


# -- space and normalisation ----------------------------------------------------------------------------------------


def _spatial(flow: Labelling, call: Call) -> None:
    """Pooling and its like: every channel by itself."""
    labels, match = flow.labels(call.args[0]), _SPATIAL.match(call.name)
    if labels is None or match is None:
        return
    merged = flow.features.merge(labels, list(range(labels.dim() - int(match["dims"]), labels.dim())))
    for value in tree_leaves(call.out):
        if isinstance(value, Tensor) and value.is_floating_point():
            flow.label(value, merged.expand(value.shape))


def _channels(flow: Labelling, x: Tensor) -> Tensor:
    """Labels of dimension 1, ``(channels,)``, tied over all others."""
    return flow.features.merge(flow.known(x), [dim for dim in range(x.dim()) if dim != 1]).flatten()


def _over_space(channels: Tensor, out: Tensor) -> Tensor:
    return channels.reshape(1, -1, *[1] * (out.dim() - 2)).expand(out.shape)


def _tie_own(flow: Labelling, call: Call, labels: Tensor) -> None:
    """A norm's scale, shift and running statistics belong to the features they act on."""
    for name in ("weight", "bias", "running_mean", "running_var"):
        own = flow.labels(call.bound.get(name))
        if own is not None:
            flow.features.tie(own, labels)


def _batch_norm(flow: Labelling, call: Call) -> None:
    """Every channel by itself."""
    if flow.labels(call["input"]) is None:
        return
    channels = _channels(flow, call["input"])
    _tie_own(flow, call, channels)
    flow.label(call.first_out, _over_space(channels, call["input"]))


def _layer_norm(flow: Labelling, call: Call) -> None:
    """Needs all features at once."""
    x = call["input"]
    labels = flow.labels(x)
    if labels is None:
        return
    why = f"{call.name.removeprefix('native_').strip('_')} in {flow.where} normalises over all of its features"
    dims = list(range(x.dim() - len(call["normalized_shape"]), x.dim()))
    merged = flow.features.merge(labels, dims, why).expand(x.shape)
    _tie_own(flow, call, merged)
    flow.label(call.first_out, merged)


def _group_norm(flow: Labelling, call: Call) -> None:
    """Whole groups of channels live and die together: each is normalised by itself."""
    x, groups = call["input"], call["group"]
    if flow.labels(x) is None:
        return
    channels = _channels(flow, x)
    why = f"group_norm in {flow.where} normalises over all of its features"
    flow.features.merge(channels.reshape(groups, -1), [1], why if groups == 1 else None)
    _tie_own(flow, call, channels)
    owner = flow.module
    if not (isinstance(owner, nn.GroupNorm) and owner.num_groups == groups and owner.affine):
        flow.features.freeze(channels, f"the number of groups that {flow.where} normalises cannot be changed")
    flow.label(call.first_out, _over_space(channels, x))


# -- products ---------------------------------------------------------------------------------------------------


def _convolution(flow: Labelling, call: Call) -> None:
    x, weight, out, transposed = call["input"], call["weight"], call.out, call["transposed"]
    view, entering = flow.weight(weight), _channels(flow, x)
    if view is None:
        flow.features.freeze(entering, f"the weight that reads it in {flow.where} is not a parameter of its own")
        _label_frozen(flow, out, f"the weight that makes it in {flow.where} is not a parameter of its own")
        return
    positions = x if transposed else out
    flow.count_macs(view.name, positions.numel() / positions.shape[1])
    if call["groups"] == 1:
        flow.reads(view, 0 if transposed else 1, entering)
        leaving = flow.makes(view, 1 if transposed else 0, out.shape[1])
    else:
        leaving = _grouped(flow, call, view, entering)
    bias = flow.labels(call["bias"])
    if bias is not None:
        flow.features.tie(bias, leaving)
    flow.label(out, _over_space(leaving, out))


def _grouped(flow: Labelling, call: Call, view: WeightView, entering: Tensor) -> Tensor:
    """A group of channels in and out is one unit: the weight has no row of its own for anything less."""
    groups, owner = call["groups"], flow.module
    rows = flow.makes(view, 0, call["weight"].shape[0])
    leaving = flow.features.fresh(call.out.shape[1]) if call["transposed"] else rows
    units = flow.features.merge(entering.reshape(groups, -1), [1])
    flow.features.tie(units, leaving.reshape(groups, -1))
    flow.features.tie(units, rows.reshape(groups, -1))
    if not (isinstance(owner, _ConvNd) and owner.groups == groups and view.name.endswith("weight")):
        flow.features.freeze(units, f"the number of groups of the convolution in {flow.where} cannot be changed")
    return leaving


def _addmm(flow: Labelling, call: Call) -> None:
    _add(flow, _product(flow, call["mat1"], call["mat2"], call.out), call)


def _baddbmm(flow: Labelling, call: Call) -> None:
    _add(flow, _product(flow, call["batch1"], call["batch2"], call.out), call)


def _mm(flow: Labelling, call: Call) -> None:
    flow.label(call.out, _product(flow, call["self"], call["mat2"], call.out))


def _add(flow: Labelling, labels: Tensor | None, call: Call) -> None:
    """The summand of a product."""
    added = flow.labels(call["self"])
    if added is not None:
        added = added.expand(call.out.shape)
        labels = added if labels is None else flow.features.tie(labels, added)
    flow.label(call.out, labels)


def _product(flow: Labelling, first: Tensor, second: Tensor, out: Tensor) -> Tensor | None:
    """A weight with features, on either side, or features with features; of matrices or of batches of them."""
    left, right = _weight_of_all(flow, first), _weight_of_all(flow, second)
    if right is not None and left is None:
        entering = flow.features.merge(flow.known(first), list(range(first.dim() - 1))).flatten()
        flow.count_macs(right.name, out.numel() / out.shape[-1])
        flow.reads(right, 0, entering)
        return flow.makes(right, 1, out.shape[-1]).expand(out.shape)
    if left is not None and right is None:
        others = [dim for dim in range(second.dim()) if dim != second.dim() - 2]
        entering = flow.features.merge(flow.known(second), others).flatten()
        flow.count_macs(left.name, out.numel() / out.shape[-2])
        flow.reads(left, 1, entering)
        return flow.makes(left, 0, out.shape[-2]).unsqueeze(1).expand(out.shape)
    return _feature_product(flow, flow.labels(first), flow.labels(second), first.shape[-1], out)


def _weight_of_all(flow: Labelling, factor: Tensor) -> WeightView | None:
    """The weight that a matrix is, or that every matrix of a batch is."""
    if factor.dim() == 3:  # noqa: PLR2004 (a batch)
        if len(factor) > 1 and factor.stride(0) != 0:
            return None
        factor = factor[0]
    return flow.weight(factor)


def _feature_product(
    flow: Labelling, left: Tensor | None, right: Tensor | None, depth: int, out: Tensor
) -> Tensor | None:
    """Each result depends on a whole row of one factor and a whole column of the other."""
    rows = None if left is None else flow.features.merge(left, [left.dim() - 1])
    columns = None if right is None else flow.features.merge(right, [right.dim() - 2])
    if rows is None or columns is None:
        only = rows if columns is None else columns
        return None if only is None else only.expand(out.shape)
    labels = flow.features.tie(rows, columns)
    flow.count_product(labels, depth)
    return labels


def _attention(flow: Labelling, call: Call) -> None:
    """Queries, keys and values of a head live and die together."""
    query, key, value = (flow.known(call[name]) for name in ("query", "key", "value"))
    scores = flow.features.tie(flow.features.merge(query, [2, 3]), flow.features.merge(key, [2, 3]))
    bias = flow.labels(call.bound.get("attn_mask", call.bound.get("attn_bias")))
    if bias is not None:
        shape = torch.broadcast_shapes(bias.shape, (*scores.shape[:2], *bias.shape[-2:]))
        scores = flow.features.tie(scores, flow.features.merge(bias.expand(shape), [2, 3]))
    labels = flow.features.tie(scores, flow.features.merge(value, [2])).expand(call.first_out.shape)
    flow.count_product(labels, 2 * key.shape[2])
    flow.label(call.first_out, labels)


_KINDS: tuple[tuple[list[str], Rule], ...] = (
    (_MOVES, _move),
    (_COPIES, _copy),
    (_POINTWISE, _pointwise),
    (_REDUCES, _reduce),
    (_MAKES, _make),
    (_OVERWRITES, _overwrite),
)
_RULES: dict[str, Rule] = {
    **{name: rule for names, rule in _KINDS for name in names},
    "copy_": _copy_into,
    "glu": _glu,
    "embedding": _embedding,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "bmm": _mm,
    "baddbmm": _baddbmm,
}
_PATTERNS = ((_SPATIAL, _spatial), (_BATCH_NORM, _batch_norm), (_ATTENTION, _attention))
