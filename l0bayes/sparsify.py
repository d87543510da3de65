"""Network + gates + prior = a Pyro module."""

import copy
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Self

import pyro
import torch
from pyro.nn import pyro_method
from torch import Tensor, nn

from l0bayes.checks import check_inputs
from l0bayes.distributions import L0Prior, SpikeAndSlabPrior
from l0bayes.distributions.gate_prior import GatePrior, check_code_cost
from l0bayes.errors import DataError, StructureError
from l0bayes.masked import masked_forward
from l0bayes.owned_module import OwnedModule
from l0bayes.structure import GateGroup, Structure, as_arguments, find_structure, match_layers
from l0bayes.subnetwork import Selector, compact_network, run_subnetwork

# On a 784-300-100-10 network at batch 100 taking slices out pays below about this share (benchmarks/step_overhead.py).
_NARROW_BELOW = 0.7
_OPTIONS = {"gates", "code_cost", "inclusion"}


class SparseModule(OwnedModule):
    """A network whose features pass through gates, each group of gates a Pyro site.

    Called inside a guide-replayed model it draws the gates once and runs only the subnetwork they select. Made by
    :func:`sparsify`.

    Args:
        net: the network; its own parameters are trained, in place.
        structure: its gate groups.
        priors: group name to a prior of ``batch_shape`` ``(size,)``.
        example_shapes: shapes of the example inputs without their rows, for the error message if others fail.

    Attributes:
        net: the network.
        structure: the gate groups, and the layers left dense with reasons; ``print(sparse.structure)``.
    """

    def __init__(
        self,
        net: nn.Module,
        structure: Structure,
        priors: Mapping[str, Any],
        example_shapes: tuple[torch.Size, ...] = (),
    ) -> None:
        super().__init__()
        self._example_shapes = example_shapes
        self.net = net
        self.structure = structure
        self._select = Selector(structure.groups, _NARROW_BELOW)
        self._priors = {group.name: priors[group.name].to_event(1) for group in structure.groups}
        self.claim_parameters()

    @property
    def groups(self) -> tuple[GateGroup, ...]:
        """The gate groups, in the order of their sites."""
        return self.structure.groups

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        """Moves the priors with the module to another device; their dtype stays."""
        for name, prior in self._priors.items():
            arguments = {arg: getattr(prior.base_dist, arg) for arg in prior.base_dist.arg_constraints}
            moved = {arg: value.to(fn(value).device) for arg, value in arguments.items()}
            self._priors[name] = type(prior.base_dist)(**moved, validate_args=False).to_event(1)
        parent: Any = super()
        parent._apply(fn, *args, **kwargs)  # noqa: SLF001 (where nn.Module moves things)
        return self

    @pyro_method
    def sample_latents(self) -> dict[str, Tensor]:
        """Draws every gate group as a Pyro site named after it; ``(size,)`` values by group name."""
        return {name: pyro.sample(name, prior) for name, prior in self._priors.items()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the subnetwork selected by one draw of the gates.

        Args:
            args: arguments of the network.
            kwargs: keyword arguments of the network.
        """
        return self.run(self.sample_latents(), *args, **kwargs)

    def run(self, gates: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """The output of the subnetwork selected by given gates.

        Args:
            gates: group name to gate values of shape ``(size,)``; exactly 0 means closed.
            args: arguments of the network.
            kwargs: keyword arguments of the network.

        Raises:
            ValueError: if a gate vector is missing or has another shape.
        """
        for group in self.groups:
            gate = gates.get(group.name)
            if gate is None or gate.shape != (group.size,):
                found = "missing" if gate is None else f"of shape {tuple(gate.shape)}"
                raise ValueError(
                    f"gates[{group.name!r}] must have shape ({group.size},); it is {found}. One run takes one "
                    "draw of the gates: use num_particles without vectorize_particles, and Predictive with "
                    "parallel=False"
                )
        self.announce("net")
        net = self.child("net")
        selection = self._select(net.get_parameter, gates)
        try:
            return run_subnetwork(net, selection, *args, **kwargs)
        except RuntimeError as error:
            shapes = tuple(value.shape[1:] for value in args if isinstance(value, Tensor))
            if not self._example_shapes or shapes == self._example_shapes:
                raise
            raise DataError(
                f"x: {type(net).__name__} does not run on rows of shape {_shown(shapes)} ({error}); the example input "
                f"had rows of shape {_shown(self._example_shapes)}"
            ) from error

    def extra_repr(self) -> str:
        """The table of gate groups."""
        return str(self.structure)


def _shown(shapes: tuple[torch.Size, ...]) -> str:
    return ", ".join(str(tuple(shape)) for shape in shapes)


def sparsify(
    net: nn.Module,
    example_input: Any,
    code_cost: float = 0.1,
    gates: str | Mapping[str, str | Mapping[str, Any]] = "unit",
    *,
    inclusion: float | None = None,
) -> SparseModule:
    """Puts gates on a network: spike-and-slab features whose code cost is paid per parameter.

    Each gate pays ``code_cost`` times the number of parameters that read its feature (the paper's accounting,
    |g| in §2.4: an input pixel of a 784-300-100 network pays for its 300 weights).

    Args:
        net: an ordinary network; its parameters stay its own and are trained in place.
        example_input: an input (or tuple of inputs) it accepts, with a batch dimension.
        code_cost: λ in nats per parameter, ≥ 0; the paper's 0.1/N on the mean loss is 0.1 here.
        gates: ``"unit"`` gates the features that leave a layer, ``"input"`` those that enter it, network
            inputs included; or a mapping from patterns of layer names to such a word, or to options
            ``{"gates": word, "code_cost": …, "inclusion": …}``. The first pattern that matches counts; layers
            that none matches stay dense.
        inclusion: prior probability π of an open gate. ``None`` is the paper's objective
            (:class:`~l0bayes.L0Prior`); a number in (0, 1) adds KL(Bernoulli ‖ Bernoulli(π))
            (:class:`~l0bayes.SpikeAndSlabPrior`).

    Returns:
        A Pyro module with one site of gates per group; ``print`` it to see the groups.

    Raises:
        StructureError: if nothing can be gated, a pattern matches nothing, or a word or option is unknown.
        ValueError: if ``code_cost`` is negative or ``inclusion`` outside (0, 1).
    """
    if not isinstance(net, nn.Module):
        raise StructureError(f"net must be a torch.nn.Module; got {type(net).__name__}")
    settings = {
        layer: _settings(layer, value, code_cost, inclusion) for layer, value in match_layers(net, gates).items()
    }
    inputs = as_arguments(example_input)
    try:
        for value in inputs:
            if isinstance(value, Tensor):
                check_inputs(value, "example_input")
    except DataError as error:
        raise StructureError(str(error)) from error
    structure = find_structure(net, inputs, {layer: s["gates"] for layer, s in settings.items()})
    _refuse_dense(structure, gates)
    _check(net, structure, inputs)
    priors = {group.name: _prior(group, settings[group.layer], net) for group in structure.groups}
    return SparseModule(net, structure, priors, tuple(v.shape[1:] for v in inputs if isinstance(v, Tensor)))


def _settings(layer: str, value: Any, code_cost: float, inclusion: float | None) -> dict[str, Any]:
    options = {"gates": value} if isinstance(value, str) else dict(value)
    unknown = set(options) - _OPTIONS
    if unknown or "gates" not in options:
        raise StructureError(
            f"gates: options for layer {layer!r} must be 'gates' and any of {sorted(_OPTIONS - {'gates'})}; got "
            f"{sorted(options)}"
        )
    settings: dict[str, Any] = {"code_cost": code_cost, "inclusion": inclusion} | options
    for name in ("code_cost", "inclusion"):
        value = settings[name]
        if not isinstance(value, (int, float, NoneType)) or (name == "code_cost" and value is None):
            raise ValueError(f"{name} must be a number; got {value!r} for layer {layer!r}")
    check_code_cost(torch.as_tensor(float(settings["code_cost"])))  # here, where it is still per parameter
    return settings


def _refuse_dense(structure: Structure, gates: str | Mapping[str, Any]) -> None:
    """A layer asked for by its own name must not stay dense unseen; one that a pattern swept up may."""
    for layer, reason in structure.dense.items():
        if not isinstance(gates, str) and layer in gates:
            raise StructureError(f"gates: layer {layer!r} cannot be gated as asked: {reason}")


def _prior(group: GateGroup, settings: Mapping[str, Any], net: nn.Module) -> GatePrior:
    parameter = next(net.parameters())
    size = torch.full((group.size,), float(group.fan_out), device=parameter.device)
    cost = torch.as_tensor(float(settings["code_cost"])) * size
    if settings["inclusion"] is None:
        return L0Prior(cost, validate_args=True)
    return SpikeAndSlabPrior(float(settings["inclusion"]), cost, validate_args=True)


@torch.no_grad()
def _check(net: nn.Module, structure: Structure, inputs: tuple[Any, ...]) -> None:
    """Refuses a structure whose subnetwork differs from the masked network on the example input."""
    device = next(net.parameters()).device
    gates = {}
    for group in structure.groups:
        positions = torch.arange(group.size, device=device)
        gates[group.name] = torch.where(positions % 3 == 0, 0.0, 0.25 + 0.5 * (positions % 2)).double()
    trial = copy.deepcopy(net).eval().double()
    generator = torch.Generator(device).manual_seed(0)
    for parameter in trial.parameters():
        # A layer that starts at zero would hide a difference.
        scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 1.0
        parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, device=device))
    wide = [v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in inputs]
    try:
        masked = masked_forward(trial, structure.groups, gates, *wide)
        selected = run_subnetwork(trial, Selector(structure.groups)(trial.get_parameter, gates), *wide)
        torch.testing.assert_close(selected, masked, rtol=1e-6, atol=1e-8)
    except Exception as error:
        raise StructureError(
            f"{type(net).__name__} gives different outputs with closed features masked and removed ({error}): it "
            "uses these features in a way that was not traced. Gate fewer layers, by patterns in gates"
        ) from error


def find_sparse(model: nn.Module) -> SparseModule:
    """The one sparse module in a model.

    Raises:
        StructureError: if there is none, or more than one.
    """
    found = [module for module in model.modules() if isinstance(module, SparseModule)]
    if len(found) != 1:
        raise StructureError(
            f"model must contain exactly one network made by sparsify; {type(model).__name__} has {len(found)}"
        )
    return found[0]


def compact(model: nn.Module, guide: Any, rule: str = "paper") -> nn.Module:
    """The finished network: a plain module that consists of the subnetwork of the test-time gates.

    Args:
        model: a sparse module, or a model around one.
        guide: a guide that gives test-time gates, such as :class:`~l0bayes.inference.HardConcreteGuide`.
        rule: how a test-time gate is chosen, see :meth:`~l0bayes.HardConcrete.point`.

    Returns:
        A copy of the user's own network at reduced size, without Pyro, in evaluation mode; its outputs are those
        of ``predict(model, guide, x, gates="point", rule=rule)``.
    """
    sparse = find_sparse(model)
    return compact_network(sparse.net, sparse.groups, guide.point(rule)).eval()
