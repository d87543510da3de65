"""Operations that move elements, work on each, or reduce over them."""

from typing import Any

import torch
from torch import Tensor

from l0bayes.compat import tree_leaves, tree_map_tensors
from l0bayes.structure.call import Call, freeze, labels_of
from l0bayes.structure.labelling import Labelling

# -- moving, copying, making ------------------------------------------------------------------------------------------


def move(flow: Labelling, call: Call) -> None:
    """Moves labels as the operation moves the data."""
    if flow.is_weight(call.first_out):
        return
    if call.name in ("index", "_unsafe_index", "gather", "index_select"):  # integers say where from; the source moves
        _freeze_indices(flow, call, call.args[1:])
        labels = flow.labels(call.args[0])
        if labels is None:
            return
        result = call.func(labels, *call.args[1:], **call.kwargs)
    elif not labels_of(flow, call.args):
        return
    elif call.name == "constant_pad_nd":
        result = call.func(flow.known(call.args[0]), call.args[1], 0)  # what it pads with is no feature
    elif call.name in ("view", "_unsafe_view"):
        result = flow.known(call.args[0]).reshape(call.out.shape)  # repeated labels may have no such view
    elif call.name == "as_strided":
        result = _as_strided(flow.known(call.args[0]), call.args[0], call.out)
    else:
        if call.name in ("cat", "stack"):
            _join(flow, call)
        result = call.func(*tree_map_tensors(flow.known, call.args), **call.kwargs)
    for tensor, labels in zip(tree_leaves(call.out), tree_leaves(result), strict=True):
        flow.label(tensor, labels)


def roll(flow: Labelling, call: Call) -> None:
    """Moves elements; by so many places is something else for fewer features."""
    labels = flow.known(call.args[0])
    if not call["dims"] or any(flow.features.vary(labels, dim) for dim in call["dims"]):
        flow.features.freeze(labels, f"roll in {flow.where} moves it by a number of places")
    move(flow, call)


def _join(flow: Labelling, call: Call) -> None:
    """What is joined along one dimension must be equally wide along the others."""
    pieces = [flow.known(piece) for piece in call["tensors"] if piece.dim() == call["tensors"][0].dim()]
    along = call["dim"] % pieces[0].dim() if call.name == "cat" else None
    others = [dim for dim in range(pieces[0].dim()) if dim != along]
    if not any(flow.features.vary(piece, dim) for piece in pieces for dim in others):
        return
    if along is not None:
        pieces = [flow.features.merge(piece, [along]) for piece in pieces]
    for piece in pieces[1:]:
        flow.features.tie(pieces[0], piece)


def _freeze_indices(flow: Labelling, call: Call, indices: Any) -> None:
    for labels in labels_of(flow, indices):
        flow.features.freeze_sink(labels, f"{call.name} in {flow.where} uses it to say which elements to take")


def _as_strided(labels: Tensor, source: Tensor, out: Tensor) -> Tensor:
    """Labels laid out in memory as the data are."""
    dense = torch.empty_strided(source.shape, source.stride(), dtype=torch.int64).copy_(labels)
    return dense.as_strided(out.shape, out.stride(), out.storage_offset() - source.storage_offset())


def restride(flow: Labelling, call: Call) -> None:
    """Other strides for dimensions of size 1, as adaptive pooling sets them; anything more is not followed."""
    labels = flow.labels(call.out)
    if labels is not None and (labels.shape != call.out.shape or not call.out.squeeze().is_contiguous()):
        freeze(flow, call)


def copy(flow: Labelling, call: Call) -> None:
    """Labels of a copy, which what is written into the original later does not reach."""
    if flow.is_weight(call.out):
        return
    labels = flow.labels(call.args[0])
    if labels is not None:
        flow.label(call.out, flow.unshared(labels.expand(call.out.shape)))


def make(flow: Labelling, call: Call) -> None:
    """A new tensor without features."""
    if call.out.is_floating_point():
        flow.blank(call.out)


def overwrite(flow: Labelling, call: Call) -> None:
    """No features any more."""
    flow.write(call["self"], None)


def copy_into(flow: Labelling, call: Call) -> None:
    """Features written into a part of another tensor."""
    labels = flow.labels(call["src"])
    flow.write(call["self"], None if labels is None else labels.expand(call["self"].shape))


def write_at(flow: Labelling, call: Call) -> None:
    """Features written, or added, into another tensor at places along a dimension that integers say."""
    source, index = call.bound.get("source", call.bound.get("src")), call["index"]
    dim = call["dim"] % max(call["self"].dim(), 1)
    labels = flow.labels(source)
    if labels is not None and any(
        size != other
        for at, (size, other) in enumerate(zip(labels.shape, call["self"].shape, strict=True))
        if at != dim
    ):
        freeze(flow, call)
        return
    _freeze_indices(flow, call, index)
    _meet_at(flow, call, labels, [dim], [dim])


def put_at(flow: Labelling, call: Call) -> None:
    """The same at places that a tensor of integers or booleans for each of the first dimensions says."""
    indices = list(call["indices"])
    while indices and indices[-1] is None:
        indices.pop()
    if any(index is None for index in indices):
        freeze(flow, call)
        return
    taken = sum(index.dim() if index.dtype == torch.bool else 1 for index in indices)
    labels = flow.labels(call["values"])
    lead = max(call["values"].dim() - (call["self"].dim() - taken), 0)
    _meet_at(flow, call, labels, list(range(taken)), list(range(lead)), squeeze=True)


def _meet_at(
    flow: Labelling, call: Call, source: Tensor | None, dims: list[int], own: list[int], *, squeeze: bool = False
) -> None:
    """Ties what is written to what is there, feature by feature.

    Args:
        flow: the labels.
        call: the operation.
        source: labels of what is written.
        dims: dimensions of the target along which places are said.
        own: the same of the source.
        squeeze: whether the target has them in another number.
    """
    target = flow.labels(call["self"])
    if source is None and target is None:
        return
    lines = []
    for labels, where in ((target, dims), (source, own)):
        if labels is None:
            continue
        if any(flow.features.vary(labels, dim) for dim in where):
            flow.features.freeze(labels, f"{call.name} in {flow.where} says which of its features to write")
        merged = flow.features.merge(labels, where)
        lines.append(merged.squeeze(where) if squeeze and labels is source else merged)
    found = lines[0] if len(lines) == 1 else flow.features.tie(*lines)
    found = flow.unshared(found.expand(call.out.shape))
    if call.name.endswith("_"):
        flow.meet_in_place(call.out, found)
    else:
        flow.label(call.out, found)


# -- element by element, and reductions -------------------------------------------------------------------------


def pointwise(flow: Labelling, call: Call) -> None:
    """What meets in an element is tied."""
    result, entering = call.first_out, labels_of(flow, (call.args, call.kwargs))
    if not entering or not isinstance(result, Tensor):
        return
    meeting = _of_their_own(flow, call, entering, result.dim())
    labels = flow.unshared(meeting[0])
    for other in meeting[1:]:
        labels = flow.features.tie(labels, other)
    if call.name.endswith("_"):
        flow.meet_in_place(result, labels.expand(result.shape))
    else:
        flow.label(result, labels.expand(result.shape))


def _of_their_own(flow: Labelling, call: Call, entering: list[Tensor], dims: int) -> list[Tensor]:
    """Operands that have an element for each feature; those that act on several features at once stay as they are.

    But where parameters are made of parameters, such as by a norm of each row, those features are coupled.
    """
    padded = [labels.reshape([1] * (dims - labels.dim()) + list(labels.shape)) for labels in entering]
    carrying = [value for value in tree_leaves((call.args, call.kwargs)) if flow.labels(value) is not None]
    if all(flow.is_made_of_weights(value) or not flow.labels(value).any() for value in carrying):  # type: ignore[union-attr]
        return padded
    own = []
    for number, labels in enumerate(padded):
        others = [other for place, other in enumerate(padded) if place != number]
        if any(
            size == 1 and any(flow.features.vary(other, dim) for other in others)
            for dim, size in enumerate(labels.shape)
        ):
            flow.features.freeze(labels, f"{call.name} in {flow.where} applies it to several features at once")
        else:
            own.append(labels)
    return own or padded


def reduce(flow: Labelling, call: Call) -> None:
    """What is reduced over is tied, since each part of it has a say in the result."""
    if isinstance(call.bound.get("other"), Tensor):  # max and min of two tensors
        pointwise(flow, call)
        return
    labels = flow.labels(call["self"])
    if labels is None:
        return
    dims = call.bound.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(labels.dim()))
    dims = sorted({dim % labels.dim() for dim in dims}) if labels.dim() else []
    why = f"{call.name.strip('_')} in {flow.where} works on all of its features at once"
    keeps_shape = call.first_out.dim() == labels.dim() and call.first_out.shape == labels.shape
    differ = any(flow.features.vary(labels, dim) for dim in dims)
    combine = flow.features.sum if differ and not keeps_shape else flow.features.merge
    merged = combine(labels, dims, why)
    for value in tree_leaves(call.out):
        if isinstance(value, Tensor):
            kept = merged if value.dim() == labels.dim() else merged.squeeze(dims)
            flow.label(value, kept.expand(value.shape))


def glu(flow: Labelling, call: Call) -> None:
    """One half gates the other."""
    labels = flow.labels(call["self"])
    if labels is not None:
        first, second = labels.chunk(2, call["dim"])
        flow.label(call.out, flow.features.tie(first, second))


def embedding(flow: Labelling, call: Call) -> None:
    """A row of a table: its columns are features, whichever row is read."""
    labels = flow.labels(call["weight"])
    _freeze_indices(flow, call, call["indices"])
    if labels is not None and call["sparse"]:
        flow.features.freeze(labels, f"{flow.where} has sparse gradients")
    if labels is not None:
        columns = flow.features.merge(labels, [0])[0]
        flow.features.mark_source(columns)
        flow.label(call.out, columns.expand(call.out.shape))
