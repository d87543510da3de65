"""A network that computes its own loss, such as transformers' do when they are given labels, as a likelihood."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from l0bayes.arguments import checked
from l0bayes.errors import DataError
from l0bayes.inputs import Inputs
from l0bayes.models.likelihood import Likelihood
from l0bayes.outputs import Which, chosen


class LossLikelihood(Likelihood):
    """The likelihood whose negative logarithm is a network's own loss.

    The loss is a mean over the *terms* of a batch: its rows, or the tokens of a language model. Of a batch of B of the
    N data with T terms the log-likelihood of the data set is estimated by −(N / B) · T · loss, in nats if the loss is a
    cross entropy, so that a code cost means what it does for :class:`~l0bayes.models.Classifier`, on which the two
    agree.

    Args:
        net: a sparse module, or any network, whose outputs hold the loss if it is given targets.
        num_data: size of the training set, N, in rows.
        loss: which part of what the network returns is the loss: the name of a field, the place in a tuple, or a
            function of the whole.
        terms: number of terms in a batch, a function of the batch as a mapping of its keyword inputs, such as
            ``lambda batch: (batch["labels"][:, 1:] != -100).sum()`` for a causal language model. ``None``: one a row,
            which is refused where a row has several targets.
        output: which part :func:`~l0bayes.inference.predict` gives.
        target: the name that targets have in batches, and by which the network takes them.

    Raises:
        ValueError: if ``num_data`` is not positive.
    """

    @checked
    def __init__(
        self,
        net: nn.Module,
        num_data: int,
        loss: Which = "loss",
        terms: Callable[[Mapping[str, Any]], Any] | None = None,
        *,
        output: Which | None = "logits",
        target: str = "labels",
    ) -> None:
        super().__init__(net, num_data, output=output, target=target)
        self._loss = loss
        self._terms = terms

    @property
    def sample_latents(self) -> Callable[[], dict[str, Tensor]] | None:
        """As of other likelihoods."""
        return self._latents()

    def observation(self, output: Tensor) -> dist.TorchDistribution:
        """Raises: a loss does not say how targets are distributed."""
        del output
        raise TypeError(
            "LossLikelihood knows a loss, and no distribution of targets to draw from; use a likelihood that does, "
            "such as Classifier(net, num_data, output='logits')"
        )

    def with_targets(self, x: Any, y: Any = None) -> Inputs:
        """A batch as the network's arguments, the targets among them.

        Raises:
            DataError: if the batch is no mapping, or there are no targets.
        """
        if not isinstance(x, Mapping):
            raise DataError(
                f"x must be a mapping of keyword inputs, such as {{'input_ids': …}}, for a network that computes its "
                f"own loss; got {type(x).__name__}"
            )
        inputs, targets = self.parts(x, y)
        if targets is None:
            raise DataError(f"x lacks {self.target!r}, the targets, without which the network computes no loss")
        return Inputs((), {**inputs.kwargs, self.target: targets})

    def terms(self, inputs: Inputs) -> Tensor | int:
        """Number of terms that the loss of a batch is the mean of.

        Raises:
            DataError: if that is not known, or not positive.
        """
        if self._terms is not None:
            number = self._terms(inputs.kwargs)
            if not number > 0:
                raise DataError(f"terms must be positive; it gives {number} for a batch of {inputs.described()}")
            return number  # type: ignore[no-any-return]
        targets = inputs.kwargs[self.target]
        if not isinstance(targets, Tensor) or targets.dim() > 1:
            shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise DataError(
                f"{self.target}: a row has several targets ({shape}); say how many terms the loss of a batch is a mean "
                "over, by terms=, such as lambda batch: (batch['labels'][:, 1:] != -100).sum()"
            )
        return inputs.rows or 1

    def loss(self, outputs: Any) -> Tensor:
        """The loss among what the network returned, a scalar.

        Raises:
            DataError: if it is none.
        """
        loss = chosen(outputs, self._loss, "loss")
        if loss.numel() != 1 or not loss.is_floating_point():
            raise DataError(f"loss must be one number, the mean over a batch; got {loss.dtype} of {tuple(loss.shape)}")
        return loss.reshape(()).to(torch.promote_types(loss.dtype, torch.float32))

    def forward(self, x: Any, y: Tensor | None = None) -> Tensor:
        """Runs the network on a batch, and observes its loss as the factor ``"y"``.

        Args:
            x: keyword inputs, a mapping, with the targets by the name ``target``.
            y: targets, if they are not in ``x``.

        Returns:
            The loss.

        Raises:
            DataError: if the batch is empty, not finite, or without targets, or the network gives no loss.
        """
        inputs = self.with_targets(x, y)
        terms, loss = self.terms(inputs), self.loss(self.run(inputs))
        with poutine.scale(scale=self.num_data / (inputs.rows or 1)):
            pyro.factor("y", -terms * loss)
        return loss
