"""Model and guide with gates that are decided."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l0bayes.compat import SampleMessenger


class FixedGates(SampleMessenger):
    """Gives gate sites their values and hides them, so that what runs inside has no such sites any more.

    For model and guide alike: what is left of the ELBO is that of the network with these gates.

    Args:
        gates: site name to values; of gates, and of what only gates depend on.
    """

    def __init__(self, gates: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._gates = dict(gates)

    def on_sample(self, msg: Any) -> None:
        """Gives a site its value, and lets no other handler see it."""
        if msg["name"] in self._gates:
            msg["value"] = self._gates[msg["name"]]
            msg["done"] = True
            msg["stop"] = True
