"""Which slices of a network's tensors are coupled: closed or open together. Nothing in here knows a distribution.

A *gate group* is a vector of gates with the slices each of them decides over: the entries that read a feature, which
the gate multiplies, and those that make it, which vanish with it. One run of the network on the example input shows
where each feature goes (:mod:`~l0bayes.structure.flow`).
"""

from l0bayes.structure.alive import Alive
from l0bayes.structure.find import Finder, Request
from l0bayes.structure.groups import GRANULARITIES, GateGroup, Product, Slice, Structure
from l0bayes.structure.names import join_name
from l0bayes.structure.roles import Roles
from l0bayes.structure.telling import is_told, tell_all, tell_partners

__all__ = [
    "GRANULARITIES",
    "Alive",
    "Finder",
    "GateGroup",
    "Product",
    "Request",
    "Roles",
    "Slice",
    "Structure",
    "is_told",
    "join_name",
    "tell_all",
    "tell_partners",
]
