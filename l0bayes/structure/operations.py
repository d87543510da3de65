"""How each kind of torch operation moves features: a rule per kind, by the operation's name.

Six kinds cover the networks of today: operations that move elements, that work element by element, that reduce over
dimensions, that slide over space, that normalise, and that multiply matrices. Whatever is none of them freezes the
features that enter it.
"""

import re
from collections.abc import Callable

import torch

from l0bayes.structure import elements, layers, products
from l0bayes.structure.call import Call, Rule, freeze
from l0bayes.structure.labelling import Labelling
from l0bayes.structure.multiplications import add_multiplications, multiply_accumulates


def _names(text: str) -> list[str]:
    return text.split()


_MOVES = _names("""
    view _unsafe_view _reshape_alias reshape permute transpose t expand slice select split split_with_sizes unbind cat
    stack squeeze unsqueeze flip repeat constant_pad_nd as_strided index_select narrow diagonal unfold
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle index gather repeat_interleave movedim tril
    triu rot90 chunk _unsafe_index unsafe_split unsafe_chunk unsafe_split_with_sizes
""")
_COPIES = _names("clone _to_copy contiguous detach alias lift_fresh")
_POINTWISE = _names("""
    native_dropout bernoulli bernoulli_ hardswish hardswish_ prelu _prelu_kernel masked_fill masked_fill_ nan_to_num
    log_sigmoid_forward rrelu_with_noise where clamp clamp_min clamp_max rand_like randn_like
    normal
""")
_REDUCES = _names("""
    mean sum amax amin max min var std var_mean prod logsumexp linalg_vector_norm norm argmax argmin any all median
    cumsum _softmax _safe_softmax _log_softmax softmax log_softmax
""")
_MAKES = _names("""
    zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty
    empty_strided new_empty_strided empty_permuted
""")
_OVERWRITES = _names("fill_ zero_ normal_ uniform_ exponential_ log_normal_ cauchy_ geometric_")
_WRITES = _names("""
    index_add index_add_ index_copy index_copy_ index_reduce index_reduce_ scatter scatter_ scatter_add scatter_add_
    scatter_reduce scatter_reduce_
""")
_BATCH_NORM = re.compile(r"(native|cudnn|miopen|_native)_batch_norm\w*|_batch_norm_with_update\w*")
_ROUNDING = 1e-9
_ATTENTION = re.compile(r"_scaled_dot_product_\w*attention\w*")


_KINDS: tuple[tuple[list[str], Rule], ...] = (
    (_MOVES, elements.move),
    (_COPIES, elements.copy),
    (_POINTWISE, elements.pointwise),
    (_REDUCES, elements.reduce),
    (_MAKES, elements.make),
    (_OVERWRITES, elements.overwrite),
    (["copy_"], elements.copy_into),
    (["as_strided_"], elements.restride),
    (["glu"], elements.glu),
    (["roll"], elements.roll),
    (["embedding"], elements.embedding),
    (_WRITES, elements.write_at),
    (["index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"], elements.put_at),
    (["native_layer_norm", "_fused_rms_norm"], layers.layer_norm),
    (["native_group_norm"], layers.group_norm),
    (["convolution"], layers.convolution),
    (["addmm"], products.addmm),
    (["mm", "bmm", "_grouped_mm"], products.mm),
    (["mv"], products.mv),
    (["_trilinear"], products.trilinear),
    (["_weight_norm_interface"], layers.weight_norm),
    (["baddbmm"], products.baddbmm),
)
_PATTERNS = ((layers.SPATIAL, layers.spatial), (_BATCH_NORM, layers.batch_norm), (_ATTENTION, products.attention))


_rules: dict[str, Rule] = {}


def add_operation_rule(operation: str, rule: Rule, *, macs: Callable[[Call], int] | None = None) -> None:
    """Says how an operation moves features.

    What a rule says is tried out like everything else: :func:`~l0bayes.sparsify` runs the network with features taken
    out and compares, so that a wrong rule leaves layers dense, and makes nothing wrong.

    Args:
        operation: its name with the namespace and without the overload, such as ``"mylib::fused_gelu"``.
        rule: called with the labels of all tensors so far, and with the operation, its arguments and its results.
        macs: multiply-accumulates of the operation, for all rows it is given, for namespaces other than torch's; 0 if
            ``None``.

    Raises:
        ValueError: if the name has no namespace, or the operation has a rule.
    """
    if not re.fullmatch(r"\w+::\w+", operation):
        raise ValueError(f"operation must be a name with a namespace, such as 'mylib::fused_gelu'; got {operation!r}")
    if operation in _rules:
        raise ValueError(f"operation: {operation!r} has a rule already")
    _rules[operation] = rule
    if macs is not None:
        add_multiplications(operation, macs)


for _operations, _rule in _KINDS:
    for _name in _operations:
        add_operation_rule(f"aten::{_name}", _rule)


def _rule_of(call: Call) -> Rule:
    known = _rules.get(f"{call.func.namespace}::{call.name}")
    if known is None and call.func.namespace == "aten":
        known = next((candidate for pattern, candidate in _PATTERNS if pattern.match(call.name)), None)
    if known is None:
        known = elements.pointwise if torch.Tag.pointwise in call.func.tags else freeze
    return known


def follow(flow: Labelling, call: Call) -> None:
    """Gives the results of an operation their labels; the labelling learns what meets what."""
    macs, before = multiply_accumulates(call), flow.counted
    _rule_of(call)(flow, call)
    left = macs - (flow.counted - before)
    if left > _ROUNDING * macs:  # whatever a rule makes of an operation, none of its work is lost
        flow.count_other(left)
