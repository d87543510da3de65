"""Knowledge distillation: a trained network's outputs take the place of a share of the observed targets.

Hinton, Vinyals and Dean 2015, arXiv 1503.02531.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.evaluating import evaluating
from l0bayes.models.likelihood import Likelihood


class Teacher:
    """What a trained network adds to the loss of a batch.

    A share w of −log p(y|x) of each datum is replaced by the divergence of the model's predictive distribution from the
    teacher's, see :meth:`~l0bayes.models.likelihood.Likelihood.divergence`.

    Args:
        model: the model that is trained.
        net: the teacher, of the same inputs and outputs as the model's network; it is not trained.
        weight: w, in (0, 1].
        temperature: by which logits of both are divided, > 0.
    """

    def __init__(self, model: Likelihood, net: nn.Module, weight: float, temperature: float) -> None:
        self._taught, self._net = model, net
        self._weight, self._temperature = weight, temperature
        self._heard: list[Any] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, outputs of the model's network are kept."""
        self._heard.clear()
        hook = self._taught.child("net").register_forward_hook(lambda _net, _inputs, output: self._heard.append(output))
        try:
            yield
        finally:
            hook.remove()

    def penalty(self, x: Any, y: Any = None) -> Tensor:
        """What is added to the negative ELBO of a batch whose outputs were heard, in nats over the data set.

        Raises:
            ValueError: if the teacher's outputs have another shape.
        """
        with evaluating(self._net), torch.no_grad():
            inputs, y = self._taught.parts(x, y)
            outputs = inputs.call(self._net)
            taught: Any = outputs if isinstance(outputs, Tensor) else self._taught.chosen(outputs)
        total = torch.zeros((), device=taught.device)
        for heard in self._heard:
            output = self._taught.chosen(heard)
            if not isinstance(taught, Tensor) or taught.shape != output.shape:
                found = tuple(taught.shape) if isinstance(taught, Tensor) else type(taught).__name__
                raise ValueError(
                    f"teacher must have outputs as the model's network has, {tuple(output.shape)}; got {found}"
                )
            observed = self._taught.observation(output).log_prob(y)
            total = total + (self._taught.divergence(output, taught, self._temperature) + observed).mean()
        self._heard, rounds = [], len(self._heard)
        return total * (self._weight * self._taught.num_data / rounds)
