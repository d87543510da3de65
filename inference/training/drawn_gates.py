"""Gates drawn anew in each step and moved by their gradients, the paper's way; then fixed, if asked for."""

from collections.abc import Sequence
from functools import partial

from l0bayes.find_sparse import find_sparse, is_gated
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.size.rounding import round_to_target
from l0bayes.inference.training.early_stop import all_epochs, drawn_epochs
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.gate_plan import GatePlan, History, Moment, Phase


class DrawnGates(GatePlan):
    """Stochastic variational inference: ``epochs`` with drawn gates, ``fine_tune`` with test-time gates.

    Also what trains models without gates.

    Args:
        objective: the loss of a batch.
        options: how to train.
        constraints: those of the targets.

    Attributes:
        rounded: gates that were opened or closed for the targets when their training was over.
    """

    def __init__(self, objective: Objective, options: FitOptions, constraints: Sequence[Constraint]) -> None:
        super().__init__(objective, options)
        self._constraints = tuple(constraints)
        self._fixed = False
        self.rounded = 0

    def last_epoch(self, history: History) -> int:
        """All epochs, those of fine-tuning among them, or fewer where patience ends them."""
        return all_epochs(history, self.options, targeted=bool(self._constraints))

    def phase(self, now: Moment) -> Phase:
        """Gates are drawn, with a KL that weighs less during the warm-up, and then fixed."""
        warmup = self.options.kl_warmup
        weight = 1.0 if now.epoch >= warmup else min(1.0, (now.epochs + 1 / now.steps) / warmup)
        if not is_gated(self.model):
            return self._phase("plain", now, weight)
        return self._phase("fixed" if self._fixed else "drawn", now, weight)

    def begin_epoch(self, now: Moment) -> None:
        """Fixes the gates once their epochs are over."""
        until = drawn_epochs(now.history, self.options, targeted=bool(self._constraints))
        self._fixed = now.epoch >= until
        if self._fixed:
            self._round()
            fixed, sparse = self.guide.point(), find_sparse(self.model)
            # Inclusion probabilities are fixed too: only gates inform them.
            self.objective.fixed_gates = fixed | self.guide.means(sparse.prior.inclusion_sites)
            self.objective.penalties = (partial(sparse.slab_penalty, fixed),)
        else:
            self.objective.fixed_gates = None
            self.objective.penalties = tuple(constraint.penalty for constraint in self._constraints)
        for constraint in self._constraints:
            constraint.set_pressure(now.epochs / self.options.epochs)

    def end_step(self, now: Moment) -> None:
        """Moves the multipliers of the targets."""
        for constraint in () if self._fixed else self._constraints:
            constraint.dual_update(now.epochs / self.options.epochs)

    def end_epoch(self, epoch: int) -> None:
        """Rounds to the targets after the last epoch with drawn gates."""
        if epoch == self.options.epochs:
            self._round()

    def _round(self) -> None:
        self.rounded += round_to_target(self.model, self.guide, self._constraints)

    @property
    def averages(self) -> bool:
        """From the first step."""
        return True

    @property
    def keeps_its_shape(self) -> bool:
        """Once gates are fixed, or without any."""
        return self._fixed or not is_gated(self.model)

    def finish(self) -> None:
        """Rounds to the targets, if that is still to be done."""
        self._round()

    def leads_through(self) -> bool:
        """Whether test-time gates that are open by themselves make a way."""
        if not is_gated(self.model):
            return True
        gates = self.guide.gates()
        sparse = find_sparse(self.model)
        return sparse.leads_through({group.name: gates[group.name].point() != 0 for group in sparse.groups})

    def state(self) -> dict[str, int]:
        """How many gates were rounded."""
        return {"rounded": self.rounded}

    def restore(self, state: dict[str, int]) -> None:  # type: ignore[override] # its own state
        """Takes up that number."""
        self.rounded = state["rounded"]
