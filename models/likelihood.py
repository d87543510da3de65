"""Likelihoods: a network, the number of data it is trained on, and what is observed."""

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor, nn

from l0bayes.arguments import checked
from l0bayes.errors import DataError
from l0bayes.inputs import Inputs
from l0bayes.outputs import Which, chosen
from l0bayes.owned_module import OwnedModule


class Likelihood(OwnedModule):
    """A network with a likelihood on top. Subclasses say which.

    A mini-batch of B of the ``num_data`` data is scaled by ``num_data / B``, so the ELBO is in nats over the whole
    data set whatever the batch size, and a code cost means the same for all.

    Args:
        net: a sparse module, or any network.
        num_data: size of the training set, N.
        output: which part of what the network returns is meant, where that is more than a tensor: the name of a field
            (``"logits"``), the place in a tuple, or a function of the whole.
        target: the name that targets have in batches that are mappings.

    Raises:
        ValueError: if ``num_data`` is not positive.
    """

    @checked
    def __init__(self, net: nn.Module, num_data: int, *, output: Which | None = None, target: str = "labels") -> None:
        super().__init__()
        if not num_data >= 1 or num_data % 1 != 0:
            raise ValueError(f"num_data must be the number of training data, an integer of at least 1; got {num_data}")
        self.net = net
        self.num_data = num_data
        self.output = output
        self.target = target
        self.claim_parameters()

    @property
    def sample_latents(self) -> Callable[[], dict[str, Tensor]] | None:
        """Draws all latent sites without running the network, so that a guide can be set up without data.

        ``None`` where that cannot be known: a subclass with a ``forward`` of its own, or a network with other Pyro
        modules than a sparse one in it.
        """
        return self._latents() if type(self).forward is Likelihood.forward else None

    def _latents(self) -> Callable[[], dict[str, Tensor]] | None:
        net = self.child("net")
        sample: Callable[[], dict[str, Tensor]] | None = getattr(net, "sample_latents", None)
        plain = not any(isinstance(module, PyroModule) for module in net.modules())
        return dict if sample is None and plain else sample

    def observation(self, output: Tensor) -> dist.TorchDistribution:
        """The distribution of one target for each row of the network's output."""
        raise NotImplementedError

    def check_target(self, output: Tensor, target: Tensor) -> None:
        """Raises :class:`~l0bayes.errors.DataError` unless the targets suit the network's output."""
        raise NotImplementedError

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """The error of each row, to be averaged."""
        raise NotImplementedError

    def divergence(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """KL from a teacher's predictive distribution to this network's, of each row, in nats.

        Args:
            output: of this network.
            taught: of the teacher, for the same rows.
            temperature: by which logits are divided; the KL is then multiplied by its square, so that gradients keep
                their size (Hinton et al. 2015, section 2). Other likelihoods have no use for it.

        Returns:
            One number a row.
        """
        del temperature
        return torch.distributions.kl_divergence(self.observation(taught), self.observation(output))

    def parts(self, x: Any, y: Any = None) -> tuple[Inputs, Any]:
        """A batch as the network's arguments, and the targets, ``None`` if there are none.

        Args:
            x: a tensor, a tuple of positional inputs, or a mapping of keyword inputs, perhaps with the targets among
                them, which the network is then not given.
            y: the targets, if they are not in ``x``.

        Raises:
            DataError: if there are no rows, or numbers are not finite.
        """
        if isinstance(x, Mapping) and self.target in x:
            if y is not None:
                raise DataError(f"y: x holds the targets already, as {self.target!r}")
            x, y = {name: value for name, value in x.items() if name != self.target}, x[self.target]
        inputs = Inputs.of(x)
        inputs.check("x")
        return inputs, y

    def chosen(self, outputs: Any) -> Tensor:
        """The part of what the network returned that says how targets are distributed."""
        return outputs if self.output is None and isinstance(outputs, Tensor) else chosen(outputs, self.output)

    def forward(self, x: Any, y: Tensor | None = None) -> Tensor:
        """Runs the network on a batch and observes, or draws, its targets at site ``"y"``.

        Args:
            x: inputs, of shape ``(batch, …)``; a tuple of positional or a mapping of keyword inputs for a network that
                takes such. Targets may be in the mapping, by the name ``target``.
            y: targets; ``None`` draws them, unless they are in ``x``.

        Returns:
            The targets, observed or drawn.

        Raises:
            DataError: if the batch is empty, not finite, or its targets do not suit the network.
        """
        inputs, y = self.parts(x, y)
        output = self.chosen(self.run(inputs))
        if y is not None:
            self.check_target(output, y)
        with (
            pyro.plate("data", len(output), dim=-1),
            poutine.scale(scale=self.num_data / len(output)),
        ):
            targets: Tensor = pyro.sample("y", self.observation(output), obs=y)
        return targets

    def run(self, inputs: Inputs) -> Any:
        """What the network returns."""
        net = self.child("net")
        if not isinstance(net, OwnedModule):  # those announce themselves
            self.announce("net")
        return inputs.call(net)


def _widen(output: Tensor) -> Tensor:
    """At least float32: under autocast a sum over the data in bfloat16 would lose two digits."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _check_tensor(y: Any) -> None:
    if not isinstance(y, Tensor):
        raise DataError(f"y must be a tensor; got {type(y).__name__}")


class Classifier(Likelihood):
    """Categorical likelihood on a network whose outputs are logits.

    Args:
        net: a sparse module, or any network, with outputs of shape ``(batch, classes)``.
        num_data: size of the training set, N.
        output: which part of what the network returns are the logits, such as ``"logits"``, see :class:`Likelihood`.
        target: the name that targets have in batches that are mappings.
    """

    def observation(self, output: Tensor) -> dist.TorchDistribution:
        """Categorical with the outputs as logits."""
        return dist.Categorical(logits=_widen(output), validate_args=False)

    def divergence(self, output: Tensor, taught: Tensor, temperature: float) -> Tensor:
        """KL between classes, with logits divided by the temperature."""
        kl = super().divergence(_widen(output) / temperature, _widen(taught) / temperature, temperature)
        return kl * temperature**2

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
        return (output.argmax(-1) != target).float()


class Regressor(Likelihood):
    """Gaussian likelihood on a network whose outputs are means.

    Args:
        net: a sparse module, or any network, with outputs of shape ``(batch,)`` or ``(batch, targets)``.
        num_data: size of the training set, N.
        noise_scale: standard deviation of a target about its mean, > 0; learned (empirical Bayes), from 1, if ``None``.
        output: which part of what the network returns are the means, see :class:`Likelihood`.
        target: the name that targets have in batches that are mappings.

    Raises:
        ValueError: if ``noise_scale`` is not positive.
    """

    @checked
    def __init__(
        self,
        net: nn.Module,
        num_data: int,
        noise_scale: float | None = 1.0,
        *,
        output: Which | None = None,
        target: str = "labels",
    ) -> None:
        if noise_scale is not None and not 0 < noise_scale < float("inf"):
            raise ValueError(f"noise_scale must be finite and > 0, or None to learn it; got {noise_scale}")
        super().__init__(net, num_data, output=output, target=target)
        self.unknown = nn.Module()
        self._noise_scale = noise_scale
        if noise_scale is None:
            self.unknown.register_parameter("log_noise", nn.Parameter(torch.zeros(())))
        self.claim_parameters()

    @property
    def noise_scale(self) -> float | Tensor:
        """Standard deviation of a target about its mean, as given or as learned so far."""
        return self.parameter("unknown.log_noise").exp() if self._noise_scale is None else self._noise_scale

    def observation(self, output: Tensor) -> dist.TorchDistribution:
        """Normal about the outputs, independent over targets."""
        self.announce("unknown")
        normal = dist.Normal(_widen(output), self.noise_scale, validate_args=False)
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
        return (_widen(output) - target).square().reshape(len(output), -1).mean(-1)
