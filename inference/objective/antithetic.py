"""Draws in pairs: the second run of model and guide sees the mirror image of the first one's noise."""

from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor

from l0bayes.compat import SampleMessenger
from l0bayes.distributions import HardConcrete
from l0bayes.inference.guide.latent_site import unwrap


class Antithetic(SampleMessenger):
    """Keeps the noise of the first run it handles, and gives the second one its mirror image.

    A gate drawn from u is paired with one drawn from 1 − u, a normal at loc + ε with one at loc − ε. Each run by
    itself has the right distribution; their average varies less wherever the loss is nearly monotone in the gates.
    Sites of other kinds are drawn as ever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._noise: dict[str, Tensor] = {}

    def on_sample(self, msg: Any) -> None:
        """Draws a gate or a normal from the noise."""
        if msg["is_observed"] or msg["done"]:
            return
        fn, first = unwrap(msg["fn"]), self._noise.pop(msg["name"], None)
        if isinstance(fn, HardConcrete):
            noise = torch.rand_like(fn.log_alpha) if first is None else 1 - first
            msg["value"] = fn.icdf(noise)
        elif isinstance(fn, Normal):
            noise = torch.randn_like(fn.loc) if first is None else -first
            msg["value"] = fn.loc + noise * fn.scale
        else:
            return
        if first is None:
            self._noise[msg["name"]] = noise
        msg["done"] = True
