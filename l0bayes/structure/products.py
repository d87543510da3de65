"""Matrix products: of weights with features, of features with features, and attention, which consists of such."""

import torch
from torch import Tensor

from l0bayes.structure.call import Call, freeze, label_frozen
from l0bayes.structure.labelling import Labelling, WeightView
from l0bayes.structure.multiplications import multiply_accumulates


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
