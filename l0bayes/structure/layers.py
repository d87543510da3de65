"""Operations that layers are made of: over space, normalisations, products with weights and of features."""

import re

import torch
from torch import Tensor, nn

from l0bayes.compat import tree_leaves
from l0bayes.layers.kinds import CONVOLUTIONS
from l0bayes.structure.call import Call, freeze, label_frozen
from l0bayes.structure.labelling import Labelling, WeightView
from l0bayes.structure.multiplications import multiply_accumulates

SPATIAL = re.compile(r"(_?(adaptive_)?(max|avg)_pool|_?upsample\w*?|reflection_pad|replication_pad)(?P<dims>\d)d")


# -- space and normalisation ----------------------------------------------------------------------------------------


def spatial(flow: Labelling, call: Call) -> None:
    """Pooling and its like: every channel by itself."""
    labels, match = flow.labels(call.args[0]), SPATIAL.match(call.name)
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


def batch_norm(flow: Labelling, call: Call) -> None:
    """Every channel by itself."""
    if flow.labels(call["input"]) is None:
        return
    channels = _channels(flow, call["input"])
    _tie_own(flow, call, channels)
    flow.label(call.first_out, _over_space(channels, call["input"]))


def layer_norm(flow: Labelling, call: Call) -> None:
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


def group_norm(flow: Labelling, call: Call) -> None:
    """Whole groups of channels are coupled: each is normalised by itself."""
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


def convolution(flow: Labelling, call: Call) -> None:
    """A convolution, of any kind."""
    x, weight, out, transposed = call["input"], call["weight"], call.out, call["transposed"]
    view, entering = flow.weight(weight), _channels(flow, x)
    if view is None:
        _computed_convolution(flow, call, entering)
        return
    flow.count_macs(view.name, multiply_accumulates(call))
    if call["groups"] == 1:
        flow.reads(view, 0 if transposed else 1, entering)
        leaving = flow.makes(view, 1 if transposed else 0, out.shape[1])
    else:
        leaving = _grouped(flow, call, view, entering)
    bias = flow.labels(call["bias"])
    if bias is not None:
        flow.features.tie(bias, leaving)
    flow.label(out, _over_space(leaving, out))


def _computed_convolution(flow: Labelling, call: Call, entering: Tensor) -> None:
    """A convolution whose weight is computed: what that weight is made of may have rows to lose."""
    weight, dim = flow.labels(call["weight"]), int(call["transposed"])
    flow.features.freeze(entering, f"the weight that reads it in {flow.where} is not a parameter of its own")
    if weight is None or call["groups"] != 1:
        label_frozen(flow, call.out, f"the weight that makes it in {flow.where} is not a parameter of its own")
        return
    leaving = flow.features.merge(weight, [d for d in range(weight.dim()) if d != dim]).flatten()
    bias = flow.labels(call["bias"])
    if bias is not None:
        flow.features.tie(bias, leaving)
    labels = _over_space(leaving, call.out)
    flow.count_product(labels, multiply_accumulates(call))
    flow.label(call.out, labels)


def _grouped(flow: Labelling, call: Call, view: WeightView, entering: Tensor) -> Tensor:
    """A group of channels in and out is one unit: the weight has no row of its own for anything less."""
    groups, owner = call["groups"], flow.module
    rows = flow.makes(view, 0, call["weight"].shape[0])
    leaving = flow.features.fresh(call.out.shape[1]) if call["transposed"] else rows
    units = flow.features.merge(entering.reshape(groups, -1), [1])
    flow.features.tie(units, leaving.reshape(groups, -1))
    flow.features.tie(units, rows.reshape(groups, -1))
    if not (isinstance(owner, CONVOLUTIONS) and owner.groups == groups and view.name.endswith("weight")):
        flow.features.freeze(units, f"the number of groups of the convolution in {flow.where} cannot be changed")
    return leaving


def addmm(flow: Labelling, call: Call) -> None:
    """A matrix product with a summand."""
    _add(flow, _product(flow, call, call["mat1"], call["mat2"]), call)


def baddbmm(flow: Labelling, call: Call) -> None:
    """A batch of matrix products with a summand."""
    _add(flow, _product(flow, call, call["batch1"], call["batch2"]), call)


def mm(flow: Labelling, call: Call) -> None:
    """A matrix product, or a batch of them."""
    flow.label(call.out, _product(flow, call, call["self"], call["mat2"]))


def _add(flow: Labelling, labels: Tensor | None, call: Call) -> None:
    """The summand of a product."""
    added = flow.labels(call["self"])
    if added is not None:
        added = added.expand(call.out.shape)
        labels = added if labels is None else flow.features.tie(labels, added)
    flow.label(call.out, labels)


def _product(flow: Labelling, call: Call, first: Tensor, second: Tensor) -> Tensor | None:
    """A weight with features, on either side, or features with features; of matrices or of batches of them.

    A batch of weights, such as those of experts, reads and makes the same features in each of them.
    """
    out = call.out
    left = None if flow.is_made_of_weights(second) else _weight_of_all(flow, first)
    right = None if flow.is_made_of_weights(first) else _weight_of_all(flow, second)
    if right is not None and left is None:
        entering = flow.features.merge(flow.known(first), list(range(first.dim() - 1))).flatten()
        flow.count_macs(right.name, multiply_accumulates(call))
        flow.reads(right, len(right.dims) - 2, entering)
        return flow.makes(right, len(right.dims) - 1, out.shape[-1]).expand(out.shape)
    if left is not None and right is None:
        others = [dim for dim in range(second.dim()) if dim != second.dim() - 2]
        entering = flow.features.merge(flow.known(second), others).flatten()
        flow.count_macs(left.name, multiply_accumulates(call))
        flow.reads(left, len(left.dims) - 1, entering)
        return flow.makes(left, len(left.dims) - 2, out.shape[-2]).unsqueeze(1).expand(out.shape)
    labels = _computed_product(flow, first, second, out)
    if labels is None:
        labels = _feature_product(flow, flow.labels(first), flow.labels(second), out)
    if labels is not None:
        flow.count_product(labels, multiply_accumulates(call))
    return labels


def _weight_of_all(flow: Labelling, factor: Tensor) -> WeightView | None:
    """The weight that a matrix is, or that every matrix of a batch is, or that a batch of them is."""
    if factor.dim() == 3:  # noqa: PLR2004 (a batch)
        if len(factor) > 1 and factor.stride(0) != 0:
            return flow.weight(factor)
        factor = factor[0]
    return flow.weight(factor)


def _computed_product(flow: Labelling, first: Tensor, second: Tensor, out: Tensor) -> Tensor | None:
    """Features with a weight that is computed from parameters: they stay, and what it makes goes with what made it."""
    weights = [flow.is_made_of_weights(factor) for factor in (first, second)]
    if weights == [False, True] and flow.labels(second) is not None:
        flow.features.freeze(
            flow.known(first), f"the weight that reads it in {flow.where} is not a parameter of its own"
        )
        return flow.features.merge(flow.known(second), [second.dim() - 2]).expand(out.shape)
    if weights == [True, False] and flow.labels(first) is not None:
        flow.features.freeze(
            flow.known(second), f"the weight that reads it in {flow.where} is not a parameter of its own"
        )
        return flow.features.merge(flow.known(first), [first.dim() - 1]).expand(out.shape)
    return None


def mv(flow: Labelling, call: Call) -> None:
    """A matrix with a vector, either of which may be a weight."""
    first, second = call["self"], call["vec"]
    matrix, vector = flow.weight(first), flow.weight(second)
    if matrix is not None and not flow.is_made_of_weights(second):
        flow.count_macs(matrix.name, multiply_accumulates(call))
        flow.reads(matrix, 1, flow.known(second))
        flow.label(call.out, flow.makes(matrix, 0, len(call.out)))
    elif vector is not None and not flow.is_made_of_weights(first):
        flow.count_macs(vector.name, multiply_accumulates(call))
        flow.reads(vector, 0, flow.features.merge(flow.known(first), [0]).flatten())
        label_frozen(flow, call.out, f"the product with {vector.name!r} is one number")
    else:
        rows, columns = flow.features.merge(flow.known(first), [1])[:, 0], flow.features.merge(flow.known(second), [0])
        labels = flow.features.tie(rows, columns.expand(rows.shape))
        flow.count_product(labels, multiply_accumulates(call))
        flow.label(call.out, labels)


def trilinear(flow: Labelling, call: Call) -> None:
    """A bilinear layer, which reads two inputs at once."""
    first, weight, second = (call[f"i{number}"] for number in (1, 2, 3))
    view = flow.weight(weight) if _is_bilinear(call) else None
    if view is None:
        freeze(flow, call)
        return
    flow.count_macs(view.name, multiply_accumulates(call))
    entering, other = (flow.features.merge(flow.known(x), list(range(x.dim() - 1))).flatten() for x in (first, second))
    flow.reads(view, 1, entering)
    flow.features.freeze(other, f"it is the second input of {flow.where}, of which the first alone has gates")
    flow.label(call.out, flow.makes(view, 0, call.out.shape[-1]).expand(call.out.shape))


def _is_bilinear(call: Call) -> bool:
    """Whether it is what ``torch.nn.functional.bilinear`` makes of it."""
    expanded = [list(call[f"expand{number}"]) for number in (1, 2, 3)]
    return [*expanded, list(call["sumdim"])] == [[1, 3], [0], [1, 2], [2, 3]]


def weight_norm(flow: Labelling, call: Call) -> None:
    """Directions and lengths of rows: a row goes with its length."""
    direction, length, dim = call["v"], call["g"], call["dim"]
    if flow.depends((direction, length)):
        freeze(flow, call)
        return
    own = [
        flow.features.merge(flow.known(x), [d for d in range(x.dim()) if d != dim % x.dim()])
        for x in (direction, length)
    ]
    labels = flow.features.tie(*own)
    for value in tree_leaves(call.out):
        if value.dim() == labels.dim():
            flow.label(value, labels.expand(value.shape))


def _feature_product(flow: Labelling, left: Tensor | None, right: Tensor | None, out: Tensor) -> Tensor | None:
    """Each result depends on a whole row of one factor and a whole column of the other."""
    rows = None if left is None else flow.features.merge(left, [left.dim() - 1])
    columns = None if right is None else flow.features.merge(right, [right.dim() - 2])
    if rows is None or columns is None:
        only = rows if columns is None else columns
        return None if only is None else only.expand(out.shape)
    for own, shared in ((rows, columns), (columns, rows)):
        if out.dim() == 3 and flow.features.vary(own, 0) and not flow.features.vary(shared, 0):  # noqa: PLR2004 (a batch)
            _freeze_shared(flow, shared)
            return own.expand(out.shape)
    return flow.features.tie(rows, columns)


def _freeze_shared(flow: Labelling, labels: Tensor) -> None:
    """What all heads share stays, so that each of them can go by itself."""
    flow.features.freeze(labels, f"all heads in {flow.where} share it")


def attention(flow: Labelling, call: Call) -> None:
    """Queries, keys and values of a head are coupled, and the queries of heads that share keys and values.

    But for those that all heads share: they stay, and the heads are on their own.
    """
    query = flow.known(call["query"])
    key, value = (_shared_by_heads(flow.known(call[name]), query.shape[1]) for name in ("key", "value"))
    shared = flow.features.vary(query, 1) and not any(flow.features.vary(one, 1) for one in (key, value))
    scores = flow.features.merge(query, [2, 3])
    if shared:
        for one in (key, value):
            _freeze_shared(flow, one)
    else:
        scores = flow.features.tie(scores, flow.features.merge(key, [2, 3]))
    bias = flow.labels(call.bound.get("attn_mask", call.bound.get("attn_bias")))
    if bias is not None:
        shape = torch.broadcast_shapes(bias.shape, (*scores.shape[:2], *bias.shape[-2:]))
        scores = flow.features.tie(scores, flow.features.merge(bias.expand(shape), [2, 3]))
    labels = scores if shared else flow.features.tie(scores, flow.features.merge(value, [2]))
    labels = labels.expand(call.first_out.shape)
    flow.count_product(labels, multiply_accumulates(call))
    flow.label(call.first_out, labels)


def _shared_by_heads(labels: Tensor, heads: int) -> Tensor:
    """Labels of keys or values, ``(batch, heads, length, width)``, once for each head of the queries."""
    return labels if labels.shape[1] == heads else labels.repeat_interleave(heads // labels.shape[1], 1)
