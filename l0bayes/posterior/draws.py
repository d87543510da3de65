"""Draws of a guide's sites, and what its model says of data under each of them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from l0bayes.errors import DataError
from l0bayes.evaluating import evaluating
from l0bayes.find_sparse import find_sparse, sparse_modules
from l0bayes.owned_module import parameters_unheard
from l0bayes.posterior.gate_table import labelled_model
from l0bayes.sparse_module import SparseModule
from l0bayes.structure.groups import along
from l0bayes.subnetwork.masked import masked_weights
from l0bayes.threads import one_thread

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Draws:
    """What one guide gives; arrays begin with the draws.

    Attributes:
        posterior: latent sites, and weights as they are with their gates.
        predictive: for each observed site, a replicate of the data.
        log_likelihood: for each observed site, of each datum, in nats; without the scale of a mini-batch.
        observed: the data, without draws in front.
    """

    posterior: Arrays
    predictive: Arrays = field(default_factory=dict)
    log_likelihood: Arrays = field(default_factory=dict)
    observed: Arrays = field(default_factory=dict)


@torch.no_grad()
def draws_of(
    guide: Any, num_samples: int, data: Sequence[Any] | None = None, weights: str | Sequence[str] = ()
) -> Draws:
    """Draws latent sites; with data, runs the model once for each draw.

    Args:
        guide: a guide with ``distributions()`` and, for data or weights, its ``model``.
        num_samples: number of draws, from torch's global random state.
        data: arguments of the model with which it observes; ``()`` for a model that holds its data.
        weights: patterns of names of the network's weights to add.

    Returns:
        The draws.

    Raises:
        ValueError: if a pattern matches no weight.
        DataError: if the model observes nothing with these data, or only a part of them.
    """
    with one_thread("to_arviz"):
        return _draws_of(guide, num_samples, data, weights)


def _draws_of(guide: Any, num_samples: int, data: Sequence[Any] | None, weights: str | Sequence[str]) -> Draws:
    values = {site: fn.sample((num_samples,)) for site, fn in guide.distributions().items()}
    posterior = {site: _array(value) for site, value in _for_the_user(guide, values).items()}
    if data is None and not weights:
        return Draws(posterior)
    model = guide.model
    sparse = find_sparse(model) if weights or sparse_modules(model) else None
    names = _matching(sparse, weights) if sparse is not None else []
    found: dict[str, list[Any]] = {"weights": [], "runs": []}
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(evaluating(model))
        for at in range(num_samples):
            here = {site: value[at] for site, value in values.items()}
            drawn = sparse.draw_weights() if sparse is not None else {}
            if sparse is not None and names:
                found["weights"].append(_weights(sparse, here, drawn, names))
            if data is not None:
                found["runs"].append(_run(model, sparse, here, drawn, data))
    posterior |= {name: np.stack([row[name] for row in found["weights"]]) for name in names}
    if data is None:
        return Draws(posterior)
    predictive, log_likelihood, observed = zip(*found["runs"], strict=True)
    return Draws(posterior, _stacked(predictive), _stacked(log_likelihood), observed[0])


def _for_the_user(guide: Any, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Draws in the user's units, with what follows from them, where the model says how."""
    model = labelled_model(guide)
    exported: Mapping[str, Tensor] = model.exported(values) if hasattr(model, "exported") else values
    return exported


def _run(
    model: Any, sparse: SparseModule | None, values: Mapping[str, Tensor], weights: Mapping[str, Tensor], data: Any
) -> tuple[Arrays, Arrays, Arrays]:
    """Replicates, log-likelihoods and data of the observed sites under one draw."""
    with ExitStack() as stack:
        stack.enter_context(parameters_unheard())
        if sparse is not None:
            stack.enter_context(sparse.holding(weights))
        given: Any = poutine.condition(model, data=dict(values))
        trace = poutine.trace(given).get_trace(*data)
    predictive: Arrays = {}
    log_likelihood: Arrays = {}
    observed: Arrays = {}
    for name in trace.stochastic_nodes:
        if name not in values and not site_is_subsample(trace.nodes[name]):
            raise DataError(
                f"data: site {name!r} is neither observed nor in the guide; give the model what it observes"
            )
    for name in trace.observation_nodes:
        site = trace.nodes[name]
        if name in values:
            continue
        for frame in site["cond_indep_stack"]:
            if frame.full_size not in (None, frame.size):
                raise DataError(
                    f"data: plate {frame.name!r} takes {frame.size} of {frame.full_size} data; a log-likelihood needs "
                    "them all. Give the model a way to run without subsampling"
                )
        if isinstance(site["fn"], Unit):
            raise DataError(
                f"data: {name!r} is a factor, such as a network's own loss, which says nothing of each datum. Use a "
                "likelihood that says how targets are distributed, such as Classifier"
            )
        log_prob = scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])
        predictive[name], log_likelihood[name] = _array(site["fn"].sample()), _array(log_prob)
        observed[name] = _array(site["value"])
    if not observed:
        raise DataError("data: with them the model observes nothing; give it its targets too, such as data=(x, y)")
    return predictive, log_likelihood, observed


def _matching(sparse: SparseModule, weights: str | Sequence[str]) -> list[str]:
    patterns = [weights] if isinstance(weights, str) else list(weights)
    known = [name for name, _ in sparse.child("net").named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"weights: the pattern {pattern!r} matches none of {', '.join(known)}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _weights(
    sparse: SparseModule, values: Mapping[str, Tensor], drawn: Mapping[str, Tensor], names: Sequence[str]
) -> Arrays:
    """Weights with their gates: what reads a feature times its gate, what makes one that is not there zero."""
    net = sparse.child("net")
    gated = masked_weights(net, sparse.groups, values, drawn)
    found = {name: gated[name] if name in gated else net.get_parameter(name) for name in names}
    for group in sparse.groups:
        for part in group.slices:
            if part.tensor in found and not part.consumes:
                whole, gate = found[part.tensor], values[group.name]
                there = torch.where(part.gates >= 0, gate[part.gates.clamp(min=0)] != 0, other=True)
                found[part.tensor] = whole * along(there, part.dim, whole.shape)
    return {name: _array(value) for name, value in found.items()}


def _stacked(rows: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _array(value: Any) -> np.ndarray:
    tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
