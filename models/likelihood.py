"""Likelihoods: a network, the number of data it is trained on, and what is observed."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from l0bayes.errors import DataError
from l0bayes.owned_module import OwnedModule


class Likelihood(OwnedModule):
    """A network with a likelihood on top. Subclasses say which.

    A mini-batch of B of the ``num_data`` data is scaled by ``num_data / B``, so the ELBO is in nats over the whole
    data set whatever the batch size, and a code cost means the same for all.

    Args:
        net: a sparse module, or any network.
        num_data: size of the training set, N.

    Raises:
        ValueError: if ``num_data`` is not positive.
    """

    def __init__(self, net: nn.Module, num_data: int) -> None:
        super().__init__()
        if not num_data >= 1:
            raise ValueError(f"num_data must be the number of training data, at least 1; got {num_data}")
        self.net = net
        self.num_data = num_data
        self.claim_parameters()

    def sample_latents(self) -> dict[str, Tensor]:
        """Draws the network's latent sites without running it, so that a guide can be set up without data."""
        sample = getattr(self.child("net"), "sample_latents", None)
        latents: dict[str, Tensor] = {} if sample is None else sample()
        return latents

    def observation(self, output: Tensor) -> dist.TorchDistribution:
        """The distribution of one target for each row of the network's output."""
        raise NotImplementedError

    def check_target(self, output: Tensor, target: Tensor) -> None:
        """Raises :class:`~l0bayes.errors.DataError` unless the targets suit the network's output."""
        raise NotImplementedError

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """The error of each row, to be averaged."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Runs the network on a batch and observes, or draws, its targets at site ``"y"``.

        Args:
            x: inputs, of shape ``(batch, …)``.
            y: targets; ``None`` draws them.

        Returns:
            The targets, observed or drawn.

        Raises:
            DataError: if the batch is empty, not finite, or its targets do not suit the network.
        """
        check_inputs(x)
        net = self.child("net")
        if not isinstance(net, OwnedModule):  # those announce themselves
            self.announce("net")
        output = net(x)
        if y is not None:
            self.check_target(output, y)
        with (
            pyro.plate("data", len(output), dim=-1),
            poutine.scale(scale=self.num_data / len(output)),
        ):
            targets: Tensor = pyro.sample("y", self.observation(output), obs=y)
        return targets


def check_inputs(x: Any) -> None:
    """Raises :class:`~l0bayes.errors.DataError` unless ``x`` is a batch of finite numbers."""
    if not isinstance(x, Tensor) or x.dim() == 0 or len(x) == 0:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"x must be a tensor with at least one row; got {shape}")
    # One reduction tells in the common case; the sum of finite numbers may overflow, so look closer then.
    if x.is_floating_point() and not torch.isfinite(x.detach().sum()):
        wrong = ~torch.isfinite(x)
        if wrong.any():
            where = tuple(wrong.nonzero()[0].tolist())
            raise DataError(
                f"x must be finite; {int(wrong.sum())} values are NaN or infinite, the first, {x[where].item()}, at "
                f"{where}. Remove those rows or impute them"
            )


def _check_tensor(y: Any) -> None:
    if not isinstance(y, Tensor):
        raise DataError(f"y must be a tensor; got {type(y).__name__}")


class Classifier(Likelihood):
    """Categorical likelihood on a network whose outputs are logits.

    Args:
        net: a sparse module, or any network, with outputs of shape ``(batch, classes)``.
        num_data: size of the training set, N.
    """

    def observation(self, output: Tensor) -> dist.TorchDistribution:
        """Categorical with the outputs as logits."""
        return dist.Categorical(logits=output, validate_args=False)

    def check_target(self, output: Tensor, target: Tensor) -> None:
        """Raises :class:`~l0bayes.errors.DataError` unless targets are class numbers, one a row."""
        if output.dim() != 2:  # noqa: PLR2004
            raise DataError(f"the network's output must be logits, (batch, classes); got {tuple(output.shape)}")
        _check_tensor(target)
        if target.dtype != torch.int64 or target.shape != output.shape[:1]:
            raise DataError(
                f"y must hold one class number per row: int64 of shape {tuple(output.shape[:1])}; got "
                f"{target.dtype} of shape {tuple(target.shape)}"
            )
        classes = output.shape[-1]
        low, high = target.aminmax()
        if low < 0 or high >= classes:
            raise DataError(
                f"y must be between 0 and {classes - 1}, the network's outputs being {classes} classes; got "
                f"{int(low) if low < 0 else int(high)}. Number the classes from 0, or widen the last layer"
            )

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """1 for each row whose most probable class is wrong, else 0."""
        return (output.argmax(-1) != target).to(output.dtype)


class Regressor(Likelihood):
    """Gaussian likelihood on a network whose outputs are means.

    Args:
        net: a sparse module, or any network, with outputs of shape ``(batch,)`` or ``(batch, targets)``.
        num_data: size of the training set, N.
        noise_scale: standard deviation of a target about its mean, > 0.

    Raises:
        ValueError: if ``noise_scale`` is not positive.
    """

    def __init__(self, net: nn.Module, num_data: int, noise_scale: float = 1.0) -> None:
        if not 0 < noise_scale < float("inf"):
            raise ValueError(f"noise_scale must be finite and > 0; got {noise_scale}")
        super().__init__(net, num_data)
        self.noise_scale = noise_scale

    def observation(self, output: Tensor) -> dist.TorchDistribution:
        """Normal about the outputs, independent over targets."""
        normal = dist.Normal(output, self.noise_scale, validate_args=False)
        independent: dist.TorchDistribution = normal.to_event(output.dim() - 1)
        return independent

    def check_target(self, output: Tensor, target: Tensor) -> None:
        """Raises :class:`~l0bayes.errors.DataError` unless targets are finite and shaped like the outputs."""
        _check_tensor(target)
        if target.shape != output.shape or not target.is_floating_point():
            raise DataError(
                f"y must be floating-point of the network's output shape {tuple(output.shape)}; got {target.dtype} "
                f"of shape {tuple(target.shape)}"
            )
        if not torch.isfinite(target).all():
            raise DataError("y must be finite; it holds NaN or infinite values. Remove those rows")

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """Squared error of each row, averaged over its targets."""
        return (output - target).square().reshape(len(output), -1).mean(-1)
