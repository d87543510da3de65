"""Network + gates + prior = a Pyro module: :func:`sparsify`, and :func:`compact` to finish."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.distributions import Beta

from l0bayes.arguments import check_guide, checked_but
from l0bayes.checks import is_count
from l0bayes.errors import DataError, StructureError
from l0bayes.find_sparse import find_sparse
from l0bayes.gate_options import COSTS, GateOptions, match_layers, named_costs, read_options
from l0bayes.inputs import Inputs
from l0bayes.sparse_module import SlabName, SparseModule
from l0bayes.structure import Finder, Request, Roles, Structure, tell_all, tell_partners
from l0bayes.structure.names import layer_of
from l0bayes.subnetwork.chance import chance_kept
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.equivalence import keep_the_input_in_sight, leave_out_what_differs, refuse_recomputation
from l0bayes.subnetwork.noisy_weights import read_once
from l0bayes.subnetwork.trial import Trial
from l0bayes.threads import one_thread

NormStatistics = Literal["whole", "live"]

_PAPER = 0.1  # nats per parameter: λ = 0.1/N on the mean loss (§4.1)


@checked_but("net", "gates", "cost", "inclusion", "min_units", "norms")
def sparsify(
    net: nn.Module,
    example_input: Any,
    code_cost: float | str | None = None,
    gates: str | Mapping[str, str | Mapping[str, Any]] = "unit",
    *,
    cost: str = "parameters",
    inclusion: float | Beta | None = None,
    expected_open: float | None = None,
    init_open: float = 0.8,
    min_units: int | None = None,
    norms: NormStatistics = "whole",
    slab: SlabName = "point",
    slab_scale: float | None = None,
    num_data: int | None = None,
) -> SparseModule:
    """Puts gates on a network: spike-and-slab features whose code cost is paid per parameter.

    Args:
        net: an ordinary network; its parameters stay its own and are trained in place.
        example_input: an input it accepts, with a batch dimension: a tensor, a tuple of positional inputs, or a mapping
            of keyword inputs, ``{"input_ids": …, "attention_mask": …}``; what is in them may be nested.
        code_cost: λ in nats, ≥ 0, for each unit of ``cost``; the paper's 0.1/N on the mean loss is 0.1 here. By name:
            ``"aic"`` is 1 nat per parameter, ``"bic"`` ½ log N (§2.1). ``None``: 0.1, or 0 with ``slab="normal"``,
            whose KL takes its place.
        gates: ``"unit"`` gates the features that leave a layer (neurons, filters, heads of attention; those of
            layers that are added up together), ``"input"`` those that enter it, network inputs included, and
            ``"weight"`` every single weight, which makes nothing faster. Or a mapping from patterns of layer names
            to such a granularity, or to options ``{"gates": "unit", "code_cost": …, "inclusion": …, "expected_open": …,
            "init_open": …, "min_units": …}``. The first pattern that matches counts; layers that none matches stay
            dense.
        cost: ``"parameters"``: a parameter is paid for while all gates over it are open, in expectation over their
            joint draws. ``"macs"``: likewise each multiply-accumulate of one input. ``"paper"``: each gate pays for
            its own ``|g|`` weights whatever other gates do (§2.4): the filter that makes a unit, the weights that read
            an input. A pattern's ``code_cost`` holds for the parameters of the layers it matches, with ``"paper"``
            for the gates it asks for.
        inclusion: prior probability π of an open gate. ``None`` is the paper's objective
            (:class:`~l0bayes.L0Prior`); a number in (0, 1) adds KL(Bernoulli ‖ Bernoulli(π))
            (:class:`~l0bayes.SpikeAndSlabPrior`). A ``Beta`` distribution makes the π of each group a latent variable
            of its own, site ``inclusion.<group>``.
        expected_open: π given as the number of gates of a group that are open on average, instead.
        init_open: P(z ≠ 0) at the start, for guides that ask.
        min_units: gates of each group that the test-time network keeps at least, its most probable ones on a way from
            inputs to outputs. ``None``: 1, so that no layer vanishes by accident, and 0 where something else carries
            on without it, such as a shortcut; the outputs go on depending on the inputs. If 0 is asked for anywhere,
            they need not.
        norms: over what norms that take all features together (layer norm, root mean square norm, group norm of one
            group) have their statistics. ``"whole"``: all features, so that those stay. ``"live"``: those that are
            open, however far, in every form of the network, so that the features of a transformer's residual stream
            can have gates: the network is its subnetwork.
        slab: what is learned of a weight that is there: ``"point"``, its value; or ``"normal"``, a posterior N(μ, σ²)
            whose mean is the network's own weight, which adds Σ P(open) · KL(N(μ, σ²) ‖ slab), the full objective of
            appendix A: what a weight costs is learned with it. Biases and the parameters of norms stay points.
        slab_scale: standard deviation s of a normal slab, > 0. ``None`` with points: no slab. A number adds
            Σ P(open) · θ² / (2 s²) over all weights to the KL, an L2 penalty weighted by the gates (§2.1), in place of
            weight decay. ``None`` with ``slab="normal"``: each tensor's s is learned (empirical Bayes).
        num_data: size of the training set, N; for ``"bic"``.

    Returns:
        A Pyro module with one site of gates per group; ``print`` it to see the groups, and what stays dense and why.

    Raises:
        StructureError: if nothing can be gated, a pattern matches nothing, or a granularity or option is unknown.
        ValueError: if a number is out of range.
    """
    if not isinstance(net, nn.Module):
        raise StructureError(f"net must be a torch.nn.Module; got {type(net).__name__}")
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}; got {cost!r}")
    if norms not in get_args(NormStatistics):
        raise ValueError(f"norms must be one of {', '.join(get_args(NormStatistics))}; got {norms!r}")
    check_slab(slab, slab_scale, cost)
    code_cost = (0.0 if slab == "normal" else _PAPER) if code_cost is None else code_cost
    price, gates = named_costs(code_cost, gates, cost, num_data)
    default = GateOptions("unit", price, inclusion, init_open, min_units, expected_open).checked("every layer")
    inputs = Inputs.of(example_input)
    _check_example(net, inputs)
    with (
        one_thread("sparsify"),
        torch.autocast("cpu", enabled=False),  # casts would hide what becomes of the weights
        chance_kept(net),
    ):
        roles = Roles(net, inputs, live_norms=norms == "live")
    layers = roles.layers()
    names = map(layer_of, dict(roles.net.named_parameters()))  # norms and the like have a price too
    asked = match_layers(layers, gates, [name for name in dict.fromkeys(names) if name not in layers])
    options = {name: read_options(name, value, default) for name, value in asked.items()}
    wanted = {layer: options[layer] for layer in layers if layer in options}
    structure = Finder(roles).structure({layer: Request(o.gates, o.min_units) for layer, o in wanted.items()})
    device = next(net.parameters()).device.type
    with one_thread("sparsify"), torch.autocast(device, enabled=False), chance_kept(net):
        place = inputs.tensors[0].device
        trial = Trial(net, inputs, [course.map(lambda x: x.to(place)) for course in roles.courses])
        refuse_recomputation(net, trial.rows)
        found, structure = structure, leave_out_what_differs(trial, net, structure)
        by_default = {layer for layer, asked_for in wanted.items() if asked_for.min_units is None}
        structure = keep_the_input_in_sight(trial, structure, by_default)
    structure = tell_partners(structure, found)
    _refuse_dense(structure, gates)
    structure = tell_all(structure, found, roles)
    once = read_once(net, inputs) if slab == "normal" else frozenset()
    return SparseModule(
        net,
        structure,
        options,
        default,
        cost=cost,
        slab=slab,
        slab_scale=slab_scale,
        read_once=once,
        example_shapes=inputs.shapes,
    )


def check_slab(slab: str, slab_scale: float | None, cost: str) -> None:
    """Raises ``ValueError`` unless a slab, its scale and what is paid for go together."""
    if slab not in get_args(SlabName):
        raise ValueError(f"slab must be one of {', '.join(get_args(SlabName))}; got {slab!r}")
    if slab == "normal" and cost == "paper":
        raise ValueError(
            "slab='normal' needs cost='parameters' or 'macs', where a weight is there while all its gates are"
        )
    if slab_scale is not None and (cost == "paper" or not 0 < slab_scale < float("inf")):
        raise ValueError(
            f"slab_scale must be finite and > 0, with cost='parameters' or 'macs'; got {slab_scale} with cost={cost!r}"
        )


def _check_example(net: nn.Module, inputs: Inputs) -> None:
    if inputs.rows is None:
        raise StructureError(
            f"example_input: {type(net).__name__} needs a tensor with at least one row, or a tuple or mapping with "
            f"one; got {inputs.described()}"
        )
    try:
        inputs.check("example_input")
        signature = inspect.signature(net.forward)
    except DataError as error:
        raise StructureError(str(error)) from error
    except (TypeError, ValueError):  # it has none to look at
        return
    try:
        inputs.call(signature.bind)
    except TypeError as error:
        keys = " A mapping is taken for keyword arguments; give one that is an argument itself as ({…},)."
        raise StructureError(
            f"example_input: {type(net).__name__}.forward takes {signature}: {error}.{keys if inputs.kwargs else ''}"
        ) from error


def _refuse_dense(structure: Structure, gates: str | Mapping[str, Any]) -> None:
    """A layer asked for by its own name must not stay dense unseen; one that a pattern swept up may."""
    for layer, reason in structure.dense.items():
        if not isinstance(gates, str) and layer in gates:
            raise StructureError(f"gates: layer {layer!r} cannot be gated as asked: {reason}")


@checked_but("round_to")
def compact(model: nn.Module, guide: Any, rule: str = "paper", *, round_to: int = 1) -> nn.Module:
    """The finished network: a plain module that consists of the subnetwork of the test-time gates.

    Args:
        model: a sparse module, or a model around one.
        guide: a guide that gives test-time gates, such as :class:`~l0bayes.inference.HardConcreteGuide`.
        rule: how a test-time gate is chosen, see :meth:`~l0bayes.HardConcrete.point`.
        round_to: every group keeps a multiple of this many units, or all it has; 8 suits the matrix units of GPUs.
            The units added for it count for nothing.

    Returns:
        A copy of the user's own network at reduced size, without Pyro, in evaluation mode; its outputs are those
        of ``predict(model, guide, x, gates="point", rule=rule)``.

    Raises:
        ValueError: if ``round_to`` is not positive, or ``rule`` unknown.
    """
    if not is_count(round_to):
        raise ValueError(f"round_to must be a positive integer, such as 8; got {round_to!r}")
    check_guide(guide, "point")
    sparse = find_sparse(model)
    with torch.no_grad():
        return compact_network(sparse.net, sparse.groups, guide.point(rule), round_to).eval()
