"""Rules of one's own: for operations that no built-in rule is about, and for layers that state how wide they are.

:func:`add_operation_rule` says how an operation, such as a fused kernel of :mod:`torch.library`, moves features. Many
are of a kind that is known: :func:`pointwise`, :func:`move`, :func:`reduce`. :func:`add_width_rule` says which
attributes of a layer follow from the shapes of its tensors. The built-in rules come in by the same two doors.
"""

from l0bayes.layers.widths import add_width_rule
from l0bayes.structure.call import Call, Rule, freeze
from l0bayes.structure.elements import move, pointwise, reduce
from l0bayes.structure.labelling import Labelling
from l0bayes.structure.multiplications import multiply_accumulates
from l0bayes.structure.operations import add_operation_rule

__all__ = [
    "Call",
    "Labelling",
    "Rule",
    "add_operation_rule",
    "add_width_rule",
    "freeze",
    "move",
    "multiply_accumulates",
    "pointwise",
    "reduce",
]
