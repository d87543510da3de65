"""A target as a constraint: the code cost as the multiplier of its Lagrangian, moved by dual updates.

Minimise the negative ELBO subject to (what is alive) ≤ r · (all there is), r the keep ratio asked for. The Lagrangian
adds ν · (E[alive] / all − r) to the loss, ν in nats; so ν over the number of parameters is a code cost in nats per
parameter. The multiplier follows the keep ratio of the *test-time* network, which is what one gets in the end, while
the expectation carries the gradient. While the constraint is violated ν rises. Once it holds, what ν has gathered would
go on closing gates, and they hardly reopen; Gallego-Posada et al. (2022, arXiv 2208.04425, §4) therefore restart it at
zero. Here it is taken off the loss in proportion, over a band around the goal, so that the network stays in the band
instead of leaving it above while ν is being gathered anew; below the band it pulls the other way while it fades, for
closed gates do not reopen by themselves. Where that is not enough, for the noise of drawn gates alone goes on closing
them, ν turns negative, and gathers as it does above. And the goal itself descends, geometrically, from everything to
the target over the first half of a run: gates take hundreds of steps to close, and those of all layers would still be
on their way down when the target is met.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.code_cost.live_cost import Amount, LiveCost
from l0bayes.copying import copied
from l0bayes.find_sparse import find_sparse
from l0bayes.inference.size.target import TOLERANCE, Target
from l0bayes.inference.system.processes import Processes
from l0bayes.inference.system.timing import interleaved
from l0bayes.inputs import Inputs
from l0bayes.sparsify import compact
from l0bayes.structure.names import layer_of

BAND = TOLERANCE / 2
_FAR = 0.2  # excess from which the multiplier rises at its full rate
_TIMINGS = 200  # in a run, at most, beside those after each epoch
_CHANGED = 0.05  # of the multiply-accumulates, relatively, from which on a network is timed anew
_SHORTEST = 1e-3  # ratio of the full network's time that any network takes
DESCENT = 0.5  # share of the run after which the network should have its final size


class Constraint:
    """Follows one target through a run.

    Args:
        target: the target.
        model: a sparse module, or a model around one.
        guide: its guide.
        num_data: size of the training set: the multiplier rises in nats over all of it.
        updates: how often the multiplier will be updated in the run.
        example: a batch of inputs, for ``"latency"``.

    Attributes:
        alone: whether no other target is about the same layers; a narrower one may rightly take more of them.
        layers: names of the layers that the target is about.
        multiplier: ν, in nats.

    Raises:
        ValueError: if the layers' ``min_units`` alone are more than the target.
    """

    # Nats a datum, about an untrained classifier's, that the multiplier gathers in a twentieth of the run; it doubles
    # as fast, for the last parameters of a network may be worth far more than its first.
    _RISE = 1.0
    _SHARE_OF_RUN = 0.05
    _HALF_LIFE = 0.01  # of the multiplier, in shares of the run, where more closed than was asked for

    def __init__(
        self,
        target: Target,
        model: nn.Module,
        guide: Any,
        *,
        num_data: int,
        updates: int,
        example: Inputs | None = None,
    ) -> None:
        self.target = target
        self.multiplier = 0.0
        self.alone = True
        self._around, self._guide, self._example = model, guide, example
        self._step = self._RISE * num_data / max(1.0, self._SHARE_OF_RUN * updates)
        self._of: Amount = "parameters" if target.of == "parameters" else "macs"
        self._sparse = find_sparse(model)
        known = {layer_of(name) for name in self._sparse.structure.shapes}
        self.layers = {name for name in known if fnmatchcase(name, target.layers)}
        self._total = self._live.total
        self._pressure = 1.0
        self._short = 0.0  # by how much less than the target there is, relatively
        self._growth = 2.0 ** (1 / max(1.0, self._SHARE_OF_RUN * updates))
        self._release = 0.5 ** (1 / max(1.0, self._HALF_LIFE * updates))
        self._measured = (1.0, 1.0)  # keep ratio of the MACs, and that of the time, when the network was last timed
        self._since = 0  # updates
        self._patience = max(1, updates // _TIMINGS)
        # A copy, for the network may shrink.
        self._full = copied(self._sparse.child("net")).eval() if target.of == "latency" else None
        self._refuse_impossible()

    def others(self, constraints: Sequence["Constraint"]) -> list["Constraint"]:
        """The constraints, among some, that are about layers of this one too; without this one."""
        return [other for other in constraints if other is not self and self.layers & other.layers]

    @property
    def _live(self) -> LiveCost:
        """The cost of the network as it is now, for it may shrink."""
        return self._sparse.live_cost(self._of, self.target.layers)

    def _refuse_impossible(self) -> None:
        opened, alike = {}, {}
        for group in self._sparse.groups:
            ours = any(fnmatchcase(layer_of(part.tensor), self.target.layers) for part in group.slices)
            opened[group.name] = torch.full((group.size,), not ours)
            alike[group.name] = torch.zeros(group.size)
        least = self._sparse.keep_alive(opened, alike)
        ratio = float(self._live.amount({name: gates.double() for name, gates in least.items()})) / self._total
        if self.target.of != "latency" and ratio > self.target.share:
            raise ValueError(
                f"target: {self.target} cannot be reached: min_units and the layers without gates alone are "
                f"{ratio:.3g}. Ask for more, lower min_units, or put gates on more layers"
            )

    def _amount(self, probs: Mapping[str, Tensor]) -> Tensor:
        return self._live.amount(probs) / self._total

    def penalty(self) -> Tensor:
        """ν · (E[alive] / all − r), in nats; near the target only as much of it as keeps the network there."""
        probs = {name: gate.prob_nonzero for name, gate in self._guide.gates().items()}
        return self._pressure * self.multiplier * (self._amount(probs) - self.target.share)

    def size_of(self, gates: Mapping[str, Tensor]) -> Tensor:
        """The keep ratio of the network with given gates, differentiable; arguments as for ``LiveCost.amount``."""
        ratio = self._amount(gates)
        if self.target.of != "latency":
            return ratio
        # From one timing to the next: on the line through it and the full network.
        at, latency = self._measured
        slope = (1 - latency) / (1 - at) if at < 1 else 1.0
        return (latency + slope * (ratio - at)).clamp(min=_SHORTEST)

    @torch.no_grad()
    def reached(self) -> float:
        """The keep ratio of the test-time network."""
        return float(self.size_of(self._test_time()))

    def excess(self) -> float:
        """How far the test-time network is above its final size, relatively; negative below."""
        return self.reached() / self.target.share - 1

    @torch.no_grad()
    def measure(self) -> None:
        """Times the finished network against the full one, for ``"latency"``."""
        if self._full is None or self._example is None:
            return
        nets = {"full": self._full, "compact": compact(self._around, self._guide)}
        device = self._example.tensors[0].device
        calls = {name: partial(self._example.call, net.to(device)) for name, net in nets.items()}
        latency = Processes().of_first(interleaved(calls, rounds=9).ratio["compact"])
        self._since = 0
        self._measured = (self._keep_ratio(), latency)

    def _keep_ratio(self) -> float:
        return float(self._amount(self._test_time()))

    def _test_time(self) -> dict[str, Tensor]:
        return {name: (z != 0).double() for name, z in self._guide.point().items()}

    def _measure_again(self) -> None:
        """Times the network anew where it has changed since, and not in every step."""
        self._since += 1
        if self.target.of == "latency" and self._since >= self._patience:
            at = self._measured[0]
            if abs(self._keep_ratio() - at) > _CHANGED * at:
                self.measure()

    def set_pressure(self, done: float) -> float:
        """Sets how much of ν is felt, by how far the test-time network is above the size it should have by now.

        Args:
            done: share of the run that is done, in [0, 1].

        Returns:
            The excess over that size, relatively.
        """
        reached = self.reached()
        goal = self.target.share ** min(1.0, done / DESCENT)
        excess: float = (reached - goal) / goal
        self._short = 1 - reached / self.target.share
        closing = 0.5 + 0.5 * excess / BAND
        self._pressure = min(1.0, max(-1.0, closing) if self.multiplier >= 0 else max(0.0, 1 - closing))
        return excess

    def dual_update(self, done: float) -> None:
        """Moves the multiplier after a step; ``done`` as for :meth:`set_pressure`."""
        self._measure_again()
        excess = self.set_pressure(done)
        if excess > BAND:
            self.multiplier = self._risen(max(self.multiplier, 0.0), excess)
        elif excess < -BAND and self.multiplier > self._step:
            self.multiplier *= self._release
        elif self._short > BAND and self.alone:
            self.multiplier = -self._risen(-min(self.multiplier, 0.0), self._short)
        elif excess < -BAND:  # ahead of a goal that is still on its way down: that is no harm
            self.multiplier *= self._release

    def _risen(self, multiplier: float, how_far: float) -> float:
        rate = min(how_far / _FAR, 1.0)
        risen: float = multiplier * self._growth**rate + self._step * rate
        return risen
