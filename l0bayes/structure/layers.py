"""Operations that layers are made of: over space, normalisations, convolutions."""

import re

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


# -- convolutions, and weights that are computed -----------------------------------------------------------------


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
