"""How much of a network is alive under its gates: parameters or multiply-accumulates, as a share of the full one."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor

from l0bayes.code_cost.expected_cost import ExpectedCost
from l0bayes.structure import Structure
from l0bayes.structure.names import layer_of

Amount = Literal["parameters", "macs"]


class LiveCost:
    """The cost of what gates leave alive, gated and ungated parts together.

    Args:
        structure: the gate groups of a network.
        of: ``"parameters"``, or ``"macs"`` for multiply-accumulates of one input.
        layers: pattern of the names of the layers to count, as in ``fnmatch``.

    Attributes:
        total: cost with all gates open.

    Raises:
        ValueError: if ``of`` is unknown, or the pattern matches no layer with parameters.
    """

    def __init__(self, structure: Structure, of: Amount = "parameters", layers: str = "*") -> None:
        if of not in get_args(Amount):
            raise ValueError(f"of must be one of {', '.join(get_args(Amount))}; got {of!r}")
        counted = [name for name in structure.shapes if fnmatchcase(layer_of(name), layers)]
        if not counted:
            known = ", ".join(sorted({layer_of(name) for name in structure.shapes}))
            raise ValueError(f"layers: the pattern {layers!r} matches no layer with parameters. Layers are {known}")
        macs = of == "macs"
        each = {name: structure.macs.get(name, 0.0) if macs else 1.0 for name in counted}
        per_product = {g.name: float(macs and fnmatchcase(g.layer, layers)) for g in structure.groups}
        self._cost = ExpectedCost(structure, each, per_product)
        elements = sum(each[name] * structure.shapes[name].numel() for name in counted)
        products = sum(float(p.macs.sum()) for p in structure.products if macs and fnmatchcase(p.layer, layers))
        self.total = elements + products
        everything = {g.name: torch.ones(g.size, dtype=torch.float64) for g in structure.groups}
        self._always = self.total - float(self._cost.total(everything))

    def gated(self, probs: Mapping[str, Tensor]) -> Tensor:
        """Expected cost of what gates decide over, differentiable.

        Args:
            probs: group name to P(z ≠ 0), of shape ``(size,)``; or 0 and 1 for given gates.

        Returns:
            A scalar.
        """
        return self._cost.total(probs)

    def amount(self, probs: Mapping[str, Tensor]) -> Tensor:
        """Expected cost of everything, differentiable; arguments as for :meth:`gated`."""
        return self._cost.total(probs) + self._always
