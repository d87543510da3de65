"""The ELBO of a likelihood on a sparse network, computed without effect handlers.

Pyro's handlers, which find out what sites a model has, take as long as a small network. Where the sites are known, the
gates of one network and the targets, all gates are drawn as one vector and their KL is taken at once: the same draws
from the same seed, the same ELBO, the same gradients. In all other cases the handlers do the work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from l0bayes.checks import check_inputs
from l0bayes.compat import has_hooks
from l0bayes.inference.guide.hard_concrete_guide import HardConcreteGuide
from l0bayes.models.likelihood import Likelihood
from l0bayes.sparse_module import SparseModule


@dataclass(frozen=True)
class Direct:
    """A model and a guide whose only sites are gates and targets.

    Attributes:
        model: the likelihood.
        sparse: its network.
        guide: its guide.
        x: inputs of a batch.
        y: their targets.
    """

    model: Likelihood
    sparse: SparseModule
    guide: HardConcreteGuide
    x: Tensor
    y: Tensor

    def elbo(self, gates: Mapping[str, Tensor] | None = None, kl_weight: float = 1.0) -> Tensor | None:
        """The ELBO of one draw, in nats over the data set.

        Args:
            gates: values that take the place of draws, whose KL is then left out.
            kl_weight: what the KL is multiplied by.

        Returns:
            A scalar; ``None`` if the observation turns out to be no number a row, which handlers know to explain.
        """
        kl = None
        if gates is None:
            vector = self.guide.gate_vector()
            kl = self.sparse.kl(vector)
            gates = self.sparse.by_group(vector.rsample())
        check_inputs(self.x)
        output = self.sparse.run(gates, self.x)
        self.model.check_target(output, self.y)
        each = self.model.observation(output).log_prob(self.y)
        if each.shape != (len(output),):
            return None
        likelihood = (each * (self.model.num_data / len(output))).sum()
        return likelihood if kl is None else likelihood - (kl if kl_weight == 1 else kl_weight * kl)


def direct(model: Any, guide: Any, batch: tuple[Any, ...]) -> Direct | None:
    """Model and guide, if nothing is in the way of doing without handlers; else ``None``.

    That is a likelihood of the library, or a subclass that only says what is observed, on a network made by
    :func:`~l0bayes.sparsify` with weights that are points, its own :class:`~l0bayes.inference.HardConcreteGuide`, and
    no handler and no hook that would want to know.
    """
    usual = isinstance(model, Likelihood) and type(model).forward is Likelihood.forward
    usual = usual and type(guide) is HardConcreteGuide and not guide.lost_model
    pair = len(batch) == 2 and all(isinstance(one, Tensor) for one in batch)  # noqa: PLR2004 (inputs and targets)
    if am_i_wrapped() or not usual or not pair:
        return None
    sparse = model.child("net")
    if type(sparse) is not SparseModule or sparse.slab != "point":
        return None
    if not sparse.sites or guide.in_one_vector != sparse.sites or any(map(has_hooks, (model, sparse, guide))):
        return None
    return Direct(model, sparse, guide, *batch)


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
