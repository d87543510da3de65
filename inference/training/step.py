"""One step of training: the gradients of the ELBO on the batches of a step, and what the optimizer makes of them."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn

from l0bayes.inference.callbacks.callback import Callbacks, Run
from l0bayes.inference.data.loaders import rows_in
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.system.interrupt import Interruption
from l0bayes.inference.system.processes import Processes
from l0bayes.inference.training.compiling import Compiled, network_of
from l0bayes.inference.training.divergence import check_finite
from l0bayes.inference.training.state import TrainingState
from l0bayes.inference.training.step_batches import Batch
from l0bayes.inference.training.validation import check_batch


class Step:
    """Makes one step after another, in all processes alike.

    Args:
        objective: the loss of a batch.
        state: of the run.
        processes: that train together.
        interruption: whether Ctrl-C was pressed; one in any process counts for all.
        num_data: size of the training set, 1 if nobody knows.

    Attributes:
        called: tools beside the run, which are told of its steps.
    """

    def __init__(
        self,
        objective: Objective,
        state: TrainingState,
        processes: Processes,
        interruption: Interruption,
        *,
        num_data: int = 1,
    ) -> None:
        self.objective = objective
        self.interruption = interruption
        self._state = state
        self._processes = processes
        self._num_data = num_data
        self._checked = False
        self.called = Callbacks((), Run(state.model, state.guide))
        self._compiled = Compiled(self._trained) if state.options.compile else None
        self.follow_shapes()
        state.gates.shapes_changed = self._follow

    def follow_shapes(self) -> None:
        """After units were removed, or at the start: processes exchange the gradients there are now."""
        self._parallel = self._processes.wrap(self.objective)

    def _follow(self, net: nn.Module) -> None:
        """After another network is trained in place of the model's own."""
        self.follow_shapes()
        self._state.begin_average(net)

    def _trained(self) -> nn.Module:
        stand_in: nn.Module | None = self.objective.stand_in
        return network_of(self._state.model) if stand_in is None else stand_in

    def __call__(self, batches: Sequence[Batch]) -> tuple[float, int]:
        """Takes the step.

        Returns:
            The negative ELBO in nats over the data set, and the number of rows, both over all processes.

        Raises:
            DataError: if a batch does not suit the model.
            DivergenceError: if the loss is not finite.
        """
        state = self._state
        if not self._checked:
            check_batch(self.objective, batches[0])
            self._checked = True
        rows = sum(rows_in(batch) for batch in batches) * self._processes.size
        with self._compiled.active() if self._compiled and state.gates.keeps_its_shape else nullcontext():
            loss = self._gradients(batches)
        done = state.progress
        check_finite(loss, f"epoch {done.epoch + 1}, step {done.step + 1}", state.kept())
        state.gates.see_gradients(rows)
        if (norm := state.options.clip_norm) is not None:
            nn.utils.clip_grad_norm_(self.objective.parameters(), norm * self._num_data)
        state.optimizer.step()
        if state.average is not None:
            state.average.update()
        return loss, rows

    def _gradients(self, batches: Sequence[Batch]) -> float:
        self._state.optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            with self._processes.independent_draws(active=self._state.options.independent_draws):
                loss: torch.Tensor = self._parallel(*batch) / len(batches)
            total += self.objective.negative_elbo / len(batches)
            loss.backward()
        total, interrupted = self._processes.mean(total, float(self.interruption.requested))
        self.interruption.requested = interrupted > 0
        return total
