"""The loss of one batch: the negative ELBO, with what a run may change of it."""

from contextlib import ExitStack
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor, nn

from l0bayes.find_sparse import find_sparse
from l0bayes.inference.objective.direct import direct_loss
from l0bayes.inference.objective.elbo import ClosedFormKL_ELBO
from l0bayes.inference.objective.fixed_gates import FixedGates
from l0bayes.inference.objective.teacher import Teacher  # noqa: TC001 (a documented type)


class Objective(nn.Module):
    """The negative ELBO of model and guide on a batch, in nats over the data set.

    Args:
        elbo: the ELBO.
        model: a Pyro model that is a module.
        guide: its guide.
        bf16: whether to run in bfloat16 autocast.
        round_to, masked: of subnetworks, see :meth:`~l0bayes.SparseModule.narrowing`.

    Attributes:
        kl_weight: what the KL is multiplied by.
        fixed_gates: gate values that take the place of draws, by site name.
        penalties: what is added to the loss, each from a call.
        stand_in: a network that runs in place of a selected subnetwork, see
            :meth:`~l0bayes.SparseModule.standing_in`; ``None`` for the subnetwork.
        teacher: whose outputs take the place of a share of the targets, if there is one.
        negative_elbo: of the last batch, without penalties.
    """

    def __init__(
        self,
        elbo: ELBO,
        model: nn.Module,
        guide: nn.Module,
        *,
        bf16: bool = False,
        round_to: int = 1,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.elbo: Any = elbo  # Pyro types differentiable_loss nowhere
        self.model = model
        self.guide = guide
        self.bf16 = bf16
        self._round_to, self._masked = round_to, masked
        self.kl_weight = 1.0
        self.fixed_gates: dict[str, Tensor] | None = None
        self.penalties: tuple[Any, ...] = ()
        self.stand_in: nn.Module | None = None
        self.teacher: Teacher | None = None
        self.negative_elbo = float("nan")

    def forward(self, *batch: Any) -> Tensor:
        """The loss with its penalties, a scalar; its gradient is the one to train with."""
        with ExitStack() as stack:
            if self._round_to > 1 or self._masked:
                sparse = find_sparse(self.model)
                stack.enter_context(sparse.narrowing(round_to=self._round_to, masked=self._masked))
            if self.stand_in is not None:
                stack.enter_context(find_sparse(self.model).standing_in(self.stand_in))
            if self.teacher is not None:
                stack.enter_context(self.teacher.listening())
            with torch.autocast(next(self.parameters()).device.type, torch.bfloat16, enabled=self.bf16):
                loss = self._negative_elbo(batch)
                taught = 0.0 if self.teacher is None else self.teacher.penalty(*batch)
            self.negative_elbo = loss.item()
            loss = loss + taught
            return loss + sum(penalty() for penalty in self.penalties) if self.penalties else loss

    def _negative_elbo(self, batch: tuple[Any, ...]) -> Tensor:
        model: Any = self.model
        guide: Any = self.guide
        changed = self.fixed_gates is not None or self.kl_weight != 1
        if changed and isinstance(self.elbo, ClosedFormKL_ELBO):  # which by itself knows of no changes
            changes: Any = {"gates": self.fixed_gates, "kl_weight": self.kl_weight}
            found = direct_loss(model, guide, batch, particles=self.elbo.draws_apart, **changes)
            if found is not None:
                return found
        if self.fixed_gates is not None:
            model, guide = (FixedGates(self.fixed_gates)(it) for it in (model, guide))
        if self.kl_weight != 1:  # of the guide, where the ELBO looks for it
            guide = poutine.scale(guide, scale=self.kl_weight)
        loss: Tensor = self.elbo.differentiable_loss(model, guide, *batch)
        return loss
