"""Gates moved by evidence: open, selecting, finishing.

*Open*: every gate is open and none is drawn; the weights train, and each gate's evidence is gathered from their
gradients (:mod:`l0bayes.inference.selection.evidence`). *Selecting*: gates close, those with the least evidence for
what they cost first, along a curve as of gradual pruning (Zhu and Gupta 2017, arXiv 1710.01878; of a power that grows
with the steps of a run, since evidence needs steps, not epochs, and size is time) down to the targets, or to where each
gate's log-odds say; the subnetwork that is left trains all the while, and a gate that was closed may come back.
*Finishing*: the network is compacted and trained as the plain network that it is. The guide's ``log_alpha`` holds the
log-odds of the last decision: coordinate ascent on the ELBO, to second order in what closing a gate does.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l0bayes.find_sparse import find_sparse
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.selection.decision import Decider, Decision, Gates, Limit, marginal
from l0bayes.inference.selection.evidence import Evidence
from l0bayes.inference.selection.finishing import Finishing
from l0bayes.inference.size.constraint import Constraint
from l0bayes.inference.size.shrink import rising
from l0bayes.inference.training.early_stop import until_no_better
from l0bayes.inference.training.fit_options import FitOptions
from l0bayes.inference.training.gate_plan import GatePlan, History, Moment, Phase
from l0bayes.structure import GateGroup
from l0bayes.structure.names import layer_of

_OPEN, _OPEN_STEPS = 1 / 8, 500  # of the run for which all gates are open, and steps after which that is long enough
_SELECTED = 3 / 4  # of the run, by which gates are decided
_LANDED = 4000  # steps of selecting that are enough where a size is asked for and no code cost weighs
_POWER, _SLOW = 1.5, 1000  # of the curve along which gates close; steps for each of its powers in runs that are long
_DECISIONS = 64  # while selecting
_FEW = 8  # steps of selecting below which a run is told that it is short
_WINDOW, _AT_MOST, _STEPS = 0.01, 0.05, 50  # of the run, over which evidence is averaged, and so many steps
_TRAINED = 200  # steps by the end of selecting that a network needs for evidence to stand against the full code cost
_LAST = 4  # rounds of the last decision: what gates add to a size depends on which are open
_RETURNS = 2.0  # the power of n/k with which the k-th best of n units of a group is worth more than evidence says
_SURE = 10.0  # log-odds of a gate for which the ELBO is best at 0 or 1; none are larger
_MARGIN = 0.1  # in log α, by which a gate that is decided is beyond the threshold of every rule


class GatesByEvidence(GatePlan):
    """Three phases, whose lengths follow from the number of epochs.

    Args:
        objective: the loss of a batch.
        options: how to train.
        constraints: those of the targets.
        optimizer: of all parameters; the finished network's take the places of the full one's in it.
        num_data: size of the training set.
        steps: that an epoch has.
    """

    def __init__(
        self,
        objective: Objective,
        options: FitOptions,
        constraints: Sequence[Constraint],
        optimizer: torch.optim.Optimizer,
        *,
        num_data: int,
        steps: int,
    ) -> None:
        super().__init__(objective, options)
        self._constraints = tuple(constraints)
        self._optimizer, self._num_data = optimizer, num_data
        self._sparse = find_sparse(self.model)
        total = options.epochs * steps
        window = max(_WINDOW * total, min(_STEPS, _AT_MOST * total))
        self._evidence = Evidence(self._sparse.groups, window).to(self._device)
        self.stored = {"evidence": self._evidence}
        self._open = min(_OPEN, _OPEN_STEPS / total)
        self._free = {g.name for g in self._sparse.groups if not any(_about(one, g) for one in self._constraints)}
        self._selected_at = _SELECTED if self._free else min(_SELECTED, self._open + _LANDED / total)
        selecting = (self._selected_at - self._open) * total  # steps
        self._power = max(_POWER, selecting / _SLOW)
        self._interval = max(1, round(selecting / (_DECISIONS * self._power / _POWER)))
        self._kl_weight = min(1.0, _SELECTED * total / _TRAINED) ** 2  # as evidence grows with what is learned
        self._short = selecting < _FEW
        self._finishing: Finishing | None = None
        self._opened: dict[str, Tensor] = {g.name: torch.ones(g.size, dtype=torch.bool) for g in self._sparse.groups}
        self._begun = False
        self._leads_through = True

    @property
    def _device(self) -> torch.device:
        return next(self._sparse.child("net").parameters()).device

    # -- phases -----------------------------------------------------------------------------------------------------

    def _done(self, now: Moment) -> float:
        """Share of the run that is done; further epochs of finishing do not count."""
        return now.epochs / self.options.epochs

    def _selected(self, done: float) -> float:
        """Share of the phase of selecting that is done."""
        return min(1.0, max(0.0, (done - self._open) / (self._selected_at - self._open)))

    def last_epoch(self, history: History) -> int:
        """All epochs; patience begins with the first epoch that is all finishing."""
        begin = math.ceil(self._selected_at * self.options.epochs)
        patient = until_no_better(history[begin:], self.options.patience)
        asked = self.options.epochs + self.options.fine_tune
        return asked if patient is None else min(asked, begin + patient)

    def phase(self, now: Moment) -> Phase:
        """Open, selecting, finishing; once finishing for good, even if the run was resumed with more epochs."""
        done = self._done(now)
        if self._finishing is not None or done >= self._selected_at:
            return self._phase("finishing", now)
        return self._phase("open" if done < self._open else "selecting", now)

    def begin_epoch(self, now: Moment) -> None:
        """Opens all gates at the start."""
        if not self._begun and now.epochs == 0:
            nothing = {name: torch.full((len(gates),), _SURE) for name, gates in self._opened.items()}
            self._write(Decision(self._opened, nothing))
        self._begun = True
        self._hold()

    def begin_step(self, now: Moment, phase: Phase) -> None:
        """Decides, where a decision is due, and compacts once all are made."""
        if phase.name == "finishing" and self._finishing is None:
            self._decide_for_good()
            self._finish()
        elif phase.name == "selecting" and (now.epoch * now.steps + now.step) % self._interval == 0:
            self._decide(self._selected(self._done(now)))

    def see_gradients(self, rows: int) -> None:
        """Gathers evidence, until gates are decided."""
        if self._finishing is None:
            opened = {name: gates.to(self._device) for name, gates in self._opened.items()}
            self._evidence.update(self._sparse.child("net"), opened, min(1.0, rows / self._num_data))

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _worth(self) -> dict[str, Tensor]:
        """Evidence in nats; none for gates that have nothing alive to decide over."""
        alive = marginal(self._sparse.live_cost().amount, self._opened)
        found = {}
        for name, nats in self._evidence.nats().items():
            worth = torch.where(alive[name] > 0, nats.cpu().double(), 0)
            found[name] = worth if name in self._free else worth * _scarcity(worth)
        return found

    def _code_cost(self) -> Callable[[Gates], Tensor] | None:
        """What open gates cost under the prior, in nats; a target takes its place in the layers it is about."""
        others = {name: gates.double() for name, gates in self._opened.items() if name not in self._free}
        return (lambda gates: self._prior_cost({**gates, **others})) if self._free else None

    def _prior_cost(self, gates: Gates) -> Tensor:
        return self._sparse.prior.cost({name: gate.to(self._device) for name, gate in gates.items()}).cpu()

    @torch.no_grad()
    def _decide(self, selected: float, *, fill: bool = False) -> None:
        """Closes as much as should be closed by now, along the curve, in the share of the phase that is done."""
        left = (1 - selected) ** self._power
        limits = [Limit(one.size_of, one.target.share + (1 - one.target.share) * left) for one in self._constraints]
        cost = self._code_cost()
        if cost is not None:  # evidence needs steps to answer to what has closed: not all may go at once
            everything = {name: torch.ones_like(gates).double() for name, gates in self._opened.items()}
            limits.append(Limit(cost, left * float(cost(everything)), self._kl_weight))
        decision = Decider(self._opened, self._worth(), self._sparse.keep_alive).decide(limits, fill=fill)
        for one, multiplier in zip(self._constraints, decision.multipliers, strict=False):
            one.multiplier = multiplier
        self._opened = decision.opened
        self._leads_through = self._sparse.leads_through({n: odds > 0 for n, odds in decision.log_odds.items()})
        self._write(decision)
        self._hold()

    def _decide_for_good(self) -> None:
        for _ in range(_LAST):
            self._decide(1.0, fill=True)
            for one in self._constraints:
                one.measure()
        if self._short:
            warnings.warn(
                f"epochs={self.options.epochs} leave fewer than {_FEW} steps for choosing gates: what is kept is "
                "little better than chance. Train for longer, or with smaller batches",
                stacklevel=2,
            )

    @torch.no_grad()
    def _write(self, decision: Decision) -> None:
        """Tells the guide: P(z ≠ 0) from the log-odds, and test-time gates that are exactly 0 or 1.

        Under a prior inclusion probability the ELBO is best at the log-odds. Under a code cost alone, the paper's
        objective, it is linear in P(z ≠ 0): best where each gate is as sure as can be.
        """
        for name, gate in self.guide.gates().items():
            if name not in decision.opened:
                continue
            odds = decision.log_odds[name]
            if self._sparse.prior.inclusion[name] is None:
                odds = torch.where(decision.opened[name], _SURE, -_SURE)
            zero, one = torch.log(-gate.gamma / gate.zeta), torch.log((1 - gate.gamma) / (gate.zeta - 1))
            log_alpha = odds.to(zero).clamp(-_SURE, _SURE) + gate.beta * zero
            least = torch.maximum(one, one * gate.beta) + _MARGIN
            most = torch.minimum(zero, zero * gate.beta) - _MARGIN
            opened = decision.opened[name].to(zero.device)
            self.guide.parameter(f"log_alpha.{name}").copy_(
                torch.where(opened, torch.maximum(log_alpha, least), torch.minimum(log_alpha, most))
            )

    def _hold(self) -> None:
        """Lets the objective run the network of the gates as they are decided by now."""
        gates = {name: opened.to(self._device).float() for name, opened in self._opened.items()}
        self.objective.fixed_gates = gates
        self.objective.penalties = (partial(self._sparse.slab_penalty, gates),)
        if self._finishing is not None:
            self.objective.stand_in = self._finishing.net
        else:
            everything = all(bool(opened.all()) for opened in self._opened.values())
            self.objective.stand_in = self._sparse.child("net") if everything else None

    # -- finishing --------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Compacts; from here on the small network is trained."""
        self._optimizer.zero_grad()
        self._finishing = Finishing(self._sparse, self._opened, self.options.round_to)
        self._finishing.take_place(self._optimizer)
        self.stored["finishing"] = self._finishing.net
        self._hold()
        self.shapes_changed(self._finishing.net)

    @property
    def averages(self) -> bool:
        """Once finishing has begun."""
        return self._finishing is not None

    @property
    def keeps_its_shape(self) -> bool:
        """While all gates are open, and once they are decided."""
        return self.objective.stand_in is not None

    def leads_through(self) -> bool:
        """Whether gates whose log-odds are for being open make a way."""
        return self._leads_through

    def write_back(self) -> None:
        """Writes the finished network's parameters into the full one's."""
        if self._finishing is not None:
            self._finishing.write_back()

    def close(self) -> None:
        """Writes back, and gives the optimizer the full network's parameters."""
        self.write_back()
        if self._finishing is not None:
            self._finishing.give_back(self._optimizer)
        self.objective.stand_in, self.objective.fixed_gates, self.objective.penalties = None, None, ()

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Which gates are open, and whether the network is compacted."""
        opened = {name: gates.nonzero().squeeze(1).tolist() for name, gates in self._opened.items()}
        finishing = self._finishing is not None
        return {"opened": opened, "finishing": finishing, "leads_through": self._leads_through}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes them up."""
        for name, numbers in state["opened"].items():
            if not rising(numbers, len(self._opened[name])):
                raise ValueError(f"open gates of {name} must be numbers below {len(self._opened[name])}; got {numbers}")
            self._opened[name] = torch.zeros_like(self._opened[name]).index_fill(0, torch.tensor(numbers).long(), True)  # noqa: FBT003
        self._begun, self._leads_through = True, bool(state["leads_through"])
        if state["finishing"]:
            self._finish()


def _scarcity(worth: Tensor) -> Tensor:
    """By how much more a unit is worth because of how few would be left of its group without it.

    What n units of a group do, k of them do with a loss that grows like n²/k, if they are redundant estimates of the
    same thing: the k-th best is worth (n/k)² times what its evidence, gathered beside all others, says.
    """
    best_first = worth.argsort(descending=True)
    places = torch.empty_like(best_first).scatter_(0, best_first, torch.arange(1, len(worth) + 1))
    return (len(worth) / places.double()) ** _RETURNS


def _about(constraint: Constraint, group: GateGroup) -> bool:
    """Whether a target is about a layer that a group decides over."""
    return bool(constraint.layers & {group.layer, *(layer_of(part.tensor) for part in group.slices)})
