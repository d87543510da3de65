"""The ELBO of a likelihood on a network, computed without effect handlers.

Pyro's handlers, which find out what sites a model has, take as long as a small network. Where the sites are known, the
gates of one network and the targets, all gates are drawn as one vector and their KL is taken at once: the same draws
from the same seed, the same ELBO, the same gradients. In all other cases the handlers do the work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor, nn

from l0bayes.compat import SampleMessenger, has_hooks
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.inputs import Inputs
from l0bayes.models.likelihood import Likelihood
from l0bayes.owned_module import parameters_unheard
from l0bayes.sparse_module import SparseModule

_with_sites_inside: WeakSet[nn.Module] = WeakSet()  # models whose networks turned out to make statements of their own


class _Listener(SampleMessenger):
    """Hears whether anything is sampled."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = False

    def on_sample(self, msg: Any) -> None:  # noqa: ARG002 (whatever it is)
        """Notes that something was."""
        self.heard = True


@dataclass(frozen=True)
class Direct:
    """A model and a guide whose only sites are gates and targets.

    Attributes:
        model: the likelihood.
        sparse: its network; ``None`` for one without gates.
        guide: its guide.
        inputs: of a batch.
        y: their targets.
    """

    model: Likelihood
    sparse: SparseModule | None
    guide: HardConcreteGuide
    inputs: Inputs
    y: Tensor

    def elbo(self, gates: Mapping[str, Tensor] | None = None, kl_weight: float = 1.0) -> Tensor | None:
        """The ELBO of one draw, in nats over the data set.

        Args:
            gates: values that take the place of draws, whose KL is then left out.
            kl_weight: what the KL is multiplied by.

        Returns:
            A scalar; ``None`` if it turns out that handlers are needed: the network makes statements of its own, or the
            observation is no number a row, which handlers know to explain.
        """
        kl = None
        if self.sparse is not None and gates is None:
            vector = self.guide.gate_vector()
            kl = self.sparse.prior.kl(vector)
            gates = self.sparse.prior.by_group(vector.rsample())
        with parameters_unheard(), _Listener() as listener:
            likelihood = self._log_likelihood(gates)
        if listener.heard:
            _with_sites_inside.add(self.model)
            return None
        return likelihood if likelihood is None or kl is None else likelihood - kl_weight * kl

    def _log_likelihood(self, gates: Mapping[str, Tensor] | None) -> Tensor | None:
        net, inputs = self.model.child("net"), self.inputs
        if self.sparse is None:
            outputs = inputs.call(net)
        else:
            outputs = self.sparse.run(gates or {}, *inputs.args, **inputs.kwargs)
        output = self.model.chosen(outputs)
        self.model.check_target(output, self.y)
        each = self.model.observation(output).log_prob(self.y)
        return (each * (self.model.num_data / len(output))).sum() if each.shape == (len(output),) else None


def direct(model: Any, guide: Any, batch: tuple[Any, ...]) -> Direct | None:
    """Model and guide, if nothing is in the way of doing without handlers; else ``None``.

    That is a likelihood of the library, or a subclass that only says what is observed, on a plain network or on one
    made by :func:`~l0bayes.sparsify` with weights that are points, a :class:`~l0bayes.inference.HardConcreteGuide`, and
    no handler and no hook that would want to know.
    """
    usual = isinstance(model, Likelihood) and type(model).forward is Likelihood.forward
    usual = usual and type(guide) is HardConcreteGuide and not guide.lost_model and model not in _with_sites_inside
    if am_i_wrapped() or not usual or len(batch) > 2:  # noqa: PLR2004 (inputs and targets)
        return None
    inputs, y = model.parts(*batch)
    if not isinstance(y, Tensor):
        return None
    net = model.child("net")
    sparse = net if type(net) is SparseModule else None
    if sparse is None:
        known = model.sample_latents is dict and guide.in_one_vector == ()
    else:
        known = sparse.slab == "point" and guide.in_one_vector == sparse.prior.sites != ()
    if not known or has_hooks(model) or has_hooks(guide) or (sparse is not None and has_hooks(sparse)):
        return None
    return Direct(model, sparse, guide, inputs, y)


def direct_loss(
    model: Any,
    guide: Any,
    batch: tuple[Any, ...],
    *,
    particles: int,
    gates: Mapping[str, Tensor] | None = None,
    kl_weight: float = 1.0,
) -> Tensor | None:
    """The negative ELBO, averaged over draws; ``None`` where handlers are needed.

    Args:
        model: a Pyro model.
        guide: its guide.
        batch: the model's arguments.
        particles: draws; 0 for those that are not drawn one after the other.
        gates: see :meth:`Direct.elbo`.
        kl_weight: likewise.
    """
    found = direct(model, guide, batch) if particles else None
    if found is None:
        return None
    elbos: list[Tensor] = []
    for _ in range(particles):
        elbo = found.elbo(gates, kl_weight)
        if elbo is None:
            return None
        elbos.append(elbo)
    return -elbos[0] if particles == 1 else -torch.stack(elbos).mean()
