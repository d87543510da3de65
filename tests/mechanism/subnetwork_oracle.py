"""The oracle of the mechanism: masked = subnetwork = compacted, for any network and any gates.

Beside :func:`l0bayes.subnetwork.masked.masked_forward` there is a second definition that knows nothing of the library's
tables: forward pre-hooks that multiply what enters a layer by gates, laid out by hand (``READERS`` in
``exact_examples``).
"""

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l0bayes import HardConcrete, SparseModule, sparsify
from l0bayes.inference import HardConcreteGuide
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.masked import masked_forward
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selector

Gates = dict[str, Tensor]

# (log alpha, share of the gates that are then closed): see HardConcrete.prob_zero
STATES = {"open": 8.0, "half": -1.6, "nearly closed": -3.5, "all closed": -40.0}


# -- gates --------------------------------------------------------------------------------------------------------


def random_gates(sparse: SparseModule, share_open: float = 0.5) -> Gates:
    """Gates of which about a share is open, half of those fully."""
    gates = {}
    for group in sparse.groups:
        value = torch.rand(group.size).clamp(0.05) * 1.5
        gates[group.name] = value.clamp(max=1.0) * (torch.rand(group.size) < share_open)
    return gates


def constant_gates(sparse: SparseModule, value: float) -> Gates:
    return {group.name: torch.full((group.size,), value) for group in sparse.groups}


def drawn_gates(log_alphas: Mapping[str, Tensor], noise: int) -> Gates:
    """One draw of a guide's gates; the same for the same noise."""
    torch.manual_seed(noise)
    return {name: HardConcrete(log_alpha).rsample() for name, log_alpha in log_alphas.items()}


def spread_guide(sparse: SparseModule, *, width: float = 5.0) -> HardConcreteGuide:
    """A guide whose gates are well spread, so that some are closed under every rule but the mean."""
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        for parameter in guide.parameters():
            values = torch.linspace(-width, width, parameter.numel())
            parameter.copy_(values[torch.randperm(parameter.numel())].reshape(parameter.shape))
    return guide


# -- ways to run --------------------------------------------------------------------------------------------------


def masked(sparse: SparseModule, gates: Gates, *inputs: Tensor) -> Tensor:
    """The definition: every feature computed, then multiplied by its gate."""
    return masked_forward(sparse.net, sparse.groups, gates, *inputs)


def subnetwork(sparse: SparseModule, gates: Gates, *inputs: Tensor) -> Tensor:
    """Everything closed is taken out, however little that is."""
    selection = Selector(sparse.net, sparse.groups)(sparse.net, gates)
    return run_subnetwork(sparse.net, selection, *inputs)


def library(sparse: SparseModule, gates: Gates, *inputs: Tensor) -> Tensor:
    """As training and prediction do it."""
    return sparse.run(gates, *inputs)


def hooked(readers: Mapping[str, Callable[[Gates], Tensor]]) -> Callable[..., Tensor]:
    """The second definition: the inputs of named layers multiplied by gates, at full size.

    Args:
        readers: layer to the factor of each of its input features, given the gates.
    """

    def run(sparse: SparseModule, gates: Gates, *inputs: Tensor) -> Tensor:
        unseen = {}
        with ExitStack() as hooks:
            for name, factor in readers.items():
                layer, value = sparse.net.get_submodule(name), factor(gates)
                if name.endswith("out_proj"):  # attention reads its weight without calling it
                    unseen[f"{name}.weight"] = layer.weight * value
                    continue
                behind = 0 if isinstance(layer, nn.Linear) else layer.weight.dim() - 2

                def multiply(_module: Any, args: Any, value: Tensor = value, behind: int = behind) -> Any:
                    return (args[0] * value.reshape(-1, *[1] * behind), *args[1:])

                hooks.callback(layer.register_forward_pre_hook(multiply).remove)
            return functional_call(sparse.net, unseen, inputs)

    return run


# -- comparing ----------------------------------------------------------------------------------------------------


def assert_same(first: Tensor, second: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)


def gradients(loss: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)


def loss_of(output: Tensor) -> Tensor:
    """A loss in which every output counts, each in its own way, and not linearly."""
    weights = torch.linspace(-1.0, 1.5, output.numel(), dtype=output.dtype, device=output.device)
    return (output.sin() * weights.reshape(output.shape)).sum() + output.square().mean()


def step(run: Callable[..., Tensor], sparse: SparseModule, gates: Gates, *inputs: Tensor, wrt: Gates) -> list[Tensor]:
    """Outputs, loss and its gradients in every parameter, and in the tensors ``wrt``."""
    output = run(sparse, gates, *inputs)
    loss = loss_of(output)
    return [output, loss, *gradients(loss, *sparse.net.parameters(), *wrt.values())]


def assert_same_step(
    sparse: SparseModule, inputs: tuple[Tensor, ...], log_alphas: Gates, noise: int, *runs: Callable[..., Tensor]
) -> list[Tensor]:
    """One training step: its outputs, loss, and gradients in every parameter and every log alpha; buffers stay."""
    before = copy.deepcopy(sparse.net.state_dict())
    results = []
    for run in (masked, subnetwork, library, *runs):
        results.append(step(run, sparse, drawn_gates(log_alphas, noise), *inputs, wrt=log_alphas))
        sparse.net.load_state_dict(before)
    for values in zip(*results, strict=True):
        for value in values[1:]:
            assert_same(value, values[0])
    return results[0]


def assert_exact(net: nn.Module, x: Tensor, gates: str | dict = "unit", draws: int = 4) -> SparseModule:
    """Puts gates on a network and compares the three ways to run it; float64 is the caller's business."""
    before = copy.deepcopy(net.state_dict())
    sparse = sparsify(net.eval(), x, gates=gates)
    for share_open in (0.0, 1.0, *(0.6,) * draws):
        values = random_gates(sparse, share_open)
        expected = masked(sparse, values, x)
        assert_same(subnetwork(sparse, values, x), expected)
        assert_same(sparse.run(values, x), expected)
        assert_same(compact_network(net, sparse.groups, values)(x), expected)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    return sparse
