"""A network whose features pass through gates."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pyro.nn import pyro_method
from torch import Tensor, nn
from torch.distributions import Beta

from l0bayes.arguments import checked
from l0bayes.code_cost.live_cost import Amount, LiveCost
from l0bayes.code_cost.normal_slab import NormalSlab, standard_deviations
from l0bayes.code_cost.slab import PointSlab, Slab
from l0bayes.distributions import HardConcrete
from l0bayes.errors import DataError, L0BayesError
from l0bayes.gate_options import GateOptions
from l0bayes.html import html_table
from l0bayes.inputs import Inputs, Shapes
from l0bayes.min_units import held_open
from l0bayes.network_prior import NetworkPrior
from l0bayes.owned_module import OwnedModule
from l0bayes.structure import Alive, GateGroup, Structure
from l0bayes.structure.names import layer_of
from l0bayes.subnetwork.noisy_weights import Noise, drawn
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selector
from l0bayes.subnetwork.tensors import tensor_of

SlabName = Literal["point", "normal"]

# On a 784-300-100-10 network at batch 100 taking slices out pays below about this share (benchmarks/step_overhead.py).
_NARROW_BELOW = 0.7


class SparseModule(OwnedModule):
    """A network whose features pass through gates, each group of gates a Pyro site.

    Called inside a guide-replayed model it draws the gates once and runs only the subnetwork they select. Made by
    :func:`~l0bayes.sparsify`.

    Args:
        net: the network; its own parameters are trained, in place.
        structure: its gate groups.
        options: layer to the options of its gates.
        default: options of all other layers.
        cost: what a code cost is paid for: ``"parameters"``, ``"macs"`` or ``"paper"``.
        slab: ``"point"`` or ``"normal"``: what the posterior of a weight that is there is.
        slab_scale: standard deviation of a normal prior of the weights that are there, or ``None``.
        read_once: names of weights for which local reparameterisation is exact.
        example_shapes: of the example input, names to shapes without their rows, for the error message if others fail.

    Attributes:
        net: the network.
        structure: the gate groups, and the layers left dense with reasons; ``print(sparse.structure)``.
        units: group name to the numbers that its gates had in the full network.
        cost: what a code cost is paid for.
        slab: what the posterior of a weight is.
        prior: of its gates, and of the weights behind them.
    """

    units: dict[str, Tensor]

    @checked
    def __init__(
        self,
        net: nn.Module,
        structure: Structure,
        options: Mapping[str, GateOptions],
        default: GateOptions,
        *,
        cost: str = "parameters",
        slab: SlabName = "point",
        slab_scale: float | None = None,
        read_once: frozenset[str] = frozenset(),
        example_shapes: Mapping[str, Shapes] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.cost = cost
        self.slab = slab
        self.log_sd = standard_deviations(net) if slab == "normal" else nn.Module()
        self._slab_scale = slab_scale
        self._read_once = read_once
        self._held: dict[str, Tensor] | None = None
        self._stand_in: tuple[nn.Module, ...] = ()  # in a tuple: its parameters are not ours
        self._narrowed: tuple[int, bool] = (1, False)
        self._options = dict(options)
        self._default = default
        self._example_shapes = dict(example_shapes or {})
        # Of the full groups: what is expected of them stays when units are removed.
        self._inclusion = {group.name: options[group.layer].inclusion_of(group.size) for group in structure.groups}
        self.restructure(structure)
        self.claim_parameters()

    def restructure(self, structure: Structure, left: Mapping[str, Tensor] | None = None) -> None:
        """Takes another structure for the same network, with its tables and prices.

        Args:
            structure: the structure.
            left: group name to the gates of the structure before that are left, if units were removed.
        """
        before = self.units if left is not None else {}
        self.units = {g.name: before[g.name][left[g.name]] if left else torch.arange(g.size) for g in structure.groups}
        self.structure = structure
        self._live: dict[tuple[Amount, str], LiveCost] = {}
        self._selectors = {(1, False): Selector(self.child("net"), structure.groups, _NARROW_BELOW)}
        self._alive: Alive | None = None
        self._slab: Slab | None = None
        if self.slab == "normal":
            self._slab = NormalSlab(structure, self.child("log_sd"), self._slab_scale)
        elif self._slab_scale is not None:
            self._slab = PointSlab(structure, self._slab_scale)
        self.prior = NetworkPrior(
            self.child("net"),
            structure,
            self._options,
            self._default,
            self._inclusion,
            cost=self.cost,
            slab=self._slab,
        )

    def live_cost(self, of: Amount = "parameters", layers: str = "*") -> LiveCost:
        """What the gates leave, see :class:`~l0bayes.code_cost.live_cost.LiveCost`; tables are built once."""
        key = of, layers
        if key not in self._live:
            self._live[key] = LiveCost(self.structure, of, layers)
        return self._live[key]

    @property
    def groups(self) -> tuple[GateGroup, ...]:
        """The gate groups, in the order of their sites."""
        return self.structure.groups

    @property
    def init_open(self) -> dict[str, float]:
        """Group name to P(z ≠ 0) at the start, as asked for."""
        return {group.name: self._options[group.layer].init_open for group in self.groups}

    @property
    def terms(self) -> dict[str, Any]:
        """What the objective owes to the gates and the slab as they were asked for, by name, as JSON holds it.

        The same when units have been removed.
        """
        layers = dict.fromkeys(map(layer_of, self.structure.shapes))
        options = {group.name: self._options[group.layer] for group in self.groups}
        return {
            "cost": self.cost,
            "slab": self.slab,
            "slab_scale": self._slab_scale,
            "code_cost": {layer: float(self._options.get(layer, self._default).code_cost) for layer in layers},
            "inclusion": {name: _shown_inclusion(pi) for name, pi in self._inclusion.items()},
            "min_units": {name: asked.min_units for name, asked in options.items()},
            "gates": {g.name: [f"{part.tensor}, {part.dim}" for part in g.slices] for g in self.groups},
            **(
                {"norms over live features of": live} if (live := [g.name for g in self.groups if g.normalised]) else {}
            ),
        }

    # -- the gates -------------------------------------------------------------------------------------------------

    @pyro_method
    def sample_latents(self) -> dict[str, Tensor]:
        """Draws every gate group as a Pyro site, see :meth:`~l0bayes.network_prior.NetworkPrior.sample`."""
        if self.slab == "normal":
            self.announce("log_sd")
        return self.prior.sample()

    def slab_penalty(self, gates: Mapping[str, Tensor]) -> Tensor:
        """The slab's part of the KL, of the weights that given gates leave, in nats; 0 if they have no slab.

        Args:
            gates: group name to gate values of shape ``(size,)``.
        """
        return self.prior.slab_cost(gates, *self._stand_in)

    def keep_alive(self, opened: Mapping[str, Tensor], log_odds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gates that are open, and the most probable ones besides that keep the network alive.

        Each group keeps its ``min_units``, none of which other gates cut off, and the outputs go on depending
        on the inputs, unless a ``min_units`` of 0 was asked for.

        Args:
            opened: group name to which gates are open, ``(size,)`` booleans.
            log_odds: group name to the log-odds of P(z ≠ 0), or of what is being decided.
        """
        return self._ways.complete(opened, log_odds)

    def leads_through(self, opened: Mapping[str, Tensor]) -> bool:
        """Whether the outputs depend on the inputs with given gates, without any that are kept open besides.

        Where a ``min_units`` of 0 was asked for, nothing else is expected, and the answer is ``True``.

        Args:
            opened: group name to which gates are open, ``(size,)`` booleans.
        """
        return self._ways.leads_through(opened)

    @property
    def _ways(self) -> Alive:
        if self._alive is None:
            asked = (self._options[group.layer].min_units for group in self.groups)
            self._alive = Alive(self.structure, whole=all(number != 0 for number in asked))
        return self._alive

    @torch.no_grad()
    def enforce_min_units(self, points: Mapping[str, Tensor], gates: Mapping[str, HardConcrete]) -> dict[str, Tensor]:
        """Test-time gates that keep the network alive, see :meth:`keep_alive`.

        Args:
            points: group name to test-time gates.
            gates: group name to their distributions.

        Returns:
            The same gates; those that have to be open, and are not by themselves, are open at their mean.
        """
        opened = {group.name: points[group.name] != 0 for group in self.groups}
        kept = self.keep_alive(opened, {name: gates[name].logit_nonzero for name in opened})
        return held_open(points, gates, opened, kept)

    @property
    def least(self) -> dict[str, int]:
        """Group name to the gates that the test-time network keeps at least."""
        return {group.name: group.min_units for group in self.groups}

    # -- running ---------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the subnetwork selected by one draw of the gates, and of the weights if they are normal.

        While training each datum has its own noise where that is exact (local reparameterisation); in evaluation mode
        weights are drawn once for all.

        Args:
            args: arguments of the network.
            kwargs: keyword arguments of the network.
        """
        gates = self.sample_latents()
        if not isinstance(self._slab, NormalSlab):
            return self.run(gates, *args, **kwargs)
        if not self.training:
            weights = self.draw_weights() if self._held is None else self._held
            return self.run_with(gates, weights, *args, **kwargs)
        sd = self._slab.sd()
        return self._run(gates, None, Noise(sd, self._read_once & sd.keys()), args, kwargs)

    @contextmanager
    def holding(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Within it, runs in evaluation mode take one draw of the weights, from :meth:`draw_weights`, not one each."""
        self._held = dict(weights)
        try:
            yield
        finally:
            self._held = None

    @contextmanager
    def standing_in(self, net: nn.Module) -> Iterator[None]:
        """Within it, another network runs in place of a selected subnetwork, whatever the gates.

        For gates that are decided: the full network itself while all are open, or the compacted one.

        Args:
            net: a network of the same arguments, such as :func:`~l0bayes.compact` gives.
        """
        before, self._stand_in = self._stand_in, (net,)
        try:
            yield
        finally:
            self._stand_in = before

    @contextmanager
    def narrowing(self, *, round_to: int = 1, masked: bool = False) -> Iterator[None]:
        """Within it, subnetworks have widths that suit a device; what they compute is the same.

        Args:
            round_to: each group keeps a multiple of this many units, or all it has; those besides the open ones are
                multiplied by 0.
            masked: all units are kept, and closed ones are multiplied by 0: nothing is saved, shapes stay, and which
                gates are open is never read from the device. But for units over which norms take statistics, which
                are taken out, and never rounded, in either way.
        """
        before, self._narrowed = self._narrowed, (round_to, masked)
        try:
            yield
        finally:
            self._narrowed = before

    @property
    def _select(self) -> Selector:
        if self._narrowed not in self._selectors:
            round_to, masked = self._narrowed
            whole = frozenset(group.name for group in self.groups) if masked else frozenset()
            self._selectors[self._narrowed] = Selector(
                self.child("net"), self.groups, _NARROW_BELOW, whole=whole, round_to=round_to
            )
        return self._selectors[self._narrowed]

    def draw_weights(self) -> dict[str, Tensor]:
        """One draw of the weights that are normal, given that all gates are open, by name; none if they are points."""
        if not isinstance(self._slab, NormalSlab):
            return {}
        net = self.child("net")
        return {name: drawn(tensor_of(net, name), sd) for name, sd in self._slab.sd().items()}

    def run(self, gates: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The output of the subnetwork selected by given gates, with weights at their means.

        Args:
            gates: group name to gate values of shape ``(size,)``; exactly 0 means closed.
            args: arguments of the network.
            kwargs: keyword arguments of the network.

        Raises:
            ValueError: if a gate vector is missing or has another shape.
        """
        return self._run(gates, None, None, args, kwargs)

    def run_with(self, gates: Mapping[str, Tensor], weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The output of the subnetwork with given values of some weights, such as from :meth:`draw_weights`."""
        return self._run(gates, weights, None, args, kwargs)

    def _run(
        self,
        gates: Mapping[str, Tensor],
        weights: Mapping[str, Tensor] | None,
        noise: Noise | None,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        self._check_gates(gates)
        self.announce("net")
        if self._stand_in:
            return self._stand_in[0](*args, **kwargs)
        net = self.child("net")
        selection = self._select(net, gates, values=weights, noise=noise)
        try:
            return run_subnetwork(net, selection, *args, **kwargs)
        except Exception as error:
            shapes = Inputs(args, kwargs).shapes
            if not self._example_shapes or shapes == self._example_shapes or isinstance(error, L0BayesError):
                raise
            if not isinstance(error, RuntimeError) and shapes.keys() == self._example_shapes.keys():
                raise
            raise DataError(
                f"x: {type(net).__name__} does not run on rows of shape {_shown(shapes)} ({error}); the example input "
                f"had rows of shape {_shown(self._example_shapes)}"
            ) from error

    def _check_gates(self, gates: Mapping[str, Tensor]) -> None:
        for group in self.groups:
            gate = gates.get(group.name)
            if gate is None or gate.shape != (group.size,):
                found = "missing" if gate is None else f"of shape {tuple(gate.shape)}"
                raise ValueError(
                    f"gates[{group.name!r}] must have shape ({group.size},); it is {found}. One run takes one "
                    "draw of the gates: use num_particles without vectorize_particles, and Predictive with "
                    "parallel=False"
                )

    def _repr_html_(self) -> str:
        """What notebooks show: the gate groups, and what stays dense and why."""
        groups = [
            (group.name, f"{group.size:,}", ", ".join(dict.fromkeys(part.tensor for part in group.slices)))
            for group in self.groups
        ]
        dense = [(layer, "dense", reason) for layer, reason in self.structure.dense.items()]
        title = f"{type(self.child('net')).__name__} with {sum(group.size for group in self.groups):,} gates"
        return html_table(title, ("group", "gates", "decide over; or why not"), [*groups, *dense])

    def extra_repr(self) -> str:
        """The table of gate groups."""
        return str(self.structure)


def _shown(shapes: Mapping[str, Shapes]) -> str:
    by_keyword = any(name.startswith("'") for name in shapes)
    return ", ".join(
        f"{name} {', '.join(map(str, own))}" if by_keyword else ", ".join(map(str, own)) for name, own in shapes.items()
    )


def _shown_inclusion(inclusion: float | Beta | None) -> float | str | None:
    if isinstance(inclusion, Beta):
        return f"Beta({float(inclusion.concentration1)}, {float(inclusion.concentration0)})"
    return inclusion
