"""The networks that step, forward and memory are measured on, and gates of theirs that are open for sure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from l0bayes import SparseModule, sparsify
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide
from l0bayes.models import MLP, Classifier, LeNet5, WideResNet
from l0bayes.structure import GateGroup

SEED = 0
NUM_DATA = 60_000
CODE_COST = 0.1
CLASSES = 10

Openness = float | Mapping[str, int]  # share of every group, or group name to number of open gates
Step = Callable[[], object]


@dataclass(frozen=True)
class Network:
    """A network, its batch, its gates, and final architectures: group name to number of open gates."""

    build: Callable[[], nn.Module]
    rows: tuple[int, ...]
    batch: int
    gates: str | Mapping[str, str]
    finals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def data(self, batch: int | None = None) -> tuple[Tensor, Tensor]:
        """A batch of random inputs and classes."""
        generator = torch.Generator().manual_seed(SEED)
        size = batch or self.batch
        return (
            torch.rand(size, *self.rows, generator=generator),
            torch.randint(CLASSES, (size,), generator=generator),
        )

    def openness(self, shares: tuple[float, ...]) -> dict[str, Openness]:
        """Name to openness: shares, then the paper's final architectures."""
        return {f"{share:g}": share for share in shares} | dict(self.finals)

    def seeded(self) -> nn.Module:
        """The network, the same each time."""
        torch.manual_seed(SEED)
        return self.build()


def _numbers(groups: str, *numbers: int) -> dict[str, int]:
    return dict(zip(groups.split(), numbers, strict=True))


_LENET = "conv1.unit conv2.unit fc1.input fc2.input"
_MLP = "fc1.input fc2.input fc3.input"
NETWORKS = {
    "lenet": Network(
        LeNet5,
        (1, 28, 28),
        100,
        {"conv*": "unit", "fc*": "input"},
        {"20-25-45-462": _numbers(_LENET, 20, 25, 45, 462), "9-18-65-25": _numbers(_LENET, 9, 18, 65, 25)},
    ),
    "mlp": Network(
        lambda: MLP(784, 300, 100, 10),
        (784,),
        100,
        "input",
        {"219-214-100": _numbers(_MLP, 219, 214, 100), "266-88-33": _numbers(_MLP, 266, 88, 33)},
    ),
    "wrn": Network(lambda: WideResNet(16, 4), (3, 32, 32), 64, "unit"),
    "wrn-1": Network(lambda: WideResNet(16, 1), (3, 32, 32), 64, "unit"),
    "wrn-blocks": Network(lambda: WideResNet(16, 4), (3, 32, 32), 64, {"stage*.conv1": "unit"}),  # the paper's gates
}


# -- gates --------------------------------------------------------------------------------------------------------


def _reached(sparse: SparseModule, group: GateGroup, opened: Mapping[str, Tensor]) -> Tensor:
    """The gates of a group whose features other groups, those in ``opened``, leave open."""
    alive = torch.ones(group.size, dtype=torch.bool)
    for other in sparse.groups:
        for theirs in other.slices if other.name in opened else ():
            closed = (theirs.gates >= 0) & ~opened[other.name][theirs.gates.clamp(min=0)]
            for mine in group.slices:
                if mine.consumes and (mine.tensor, mine.dim) == (theirs.tensor, theirs.dim):
                    alive[mine.gates[closed & (mine.gates >= 0)]] = False
    return alive


def choose_open(sparse: SparseModule, openness: Openness) -> dict[str, Tensor]:
    """A random subset of each group, the same each time; numbers count features that are there to be read."""
    generator = torch.Generator().manual_seed(SEED)
    opened: dict[str, Tensor] = {}
    for group in sparse.groups:
        order = torch.rand(group.size, generator=generator)
        if isinstance(openness, Mapping):
            order -= _reached(sparse, group, opened).float()
            number = openness[group.name]
        else:
            number = max(1, round(openness * group.size))
        opened[group.name] = torch.zeros(group.size, dtype=torch.bool)
        opened[group.name][order.argsort()[:number]] = True
    return opened


@dataclass(frozen=True)
class Gated:
    """A network with gates that are open, or closed, in every draw."""

    sparse: SparseModule
    model: Classifier
    guide: HardConcreteGuide


def gated(network: Network, openness: Openness, *, masked: bool = False, device: str = "cpu") -> Gated:
    """Puts gates on a network and sets them.

    Args:
        network: the network.
        openness: which share or numbers of its gates are open.
        masked: never take anything out, so that closed features stay in as zeros.
        device: where it runs.

    Returns:
        The network, its model and its guide.
    """
    sparse = sparsify(network.seeded(), network.data(2)[0], CODE_COST, network.gates)
    if masked:
        sparse.narrowing(masked=True).__enter__()  # for good
    model = Classifier(sparse, NUM_DATA)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        for name, opened in choose_open(sparse, openness).items():
            guide.parameter(f"log_alpha.{name}").copy_(torch.where(opened, 20.0, -20.0))
    return Gated(sparse, model.to(device), guide.to(device))


# -- training steps -----------------------------------------------------------------------------------------------


def adam(parameters: Any) -> torch.optim.Optimizer:
    """An optimizer that leaves everything where it is, so that openness stays as set."""
    return torch.optim.Adam(list(parameters), lr=0.0, fused=True)


def dense_step(net: nn.Module, x: Tensor, y: Tensor) -> Step:
    """The plain network, without Pyro."""
    optimizer = adam(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        (NUM_DATA * F.cross_entropy(net(x), y)).backward()
        optimizer.step()

    return step


def elbo_step(it: Gated, x: Tensor, y: Tensor) -> Step:
    """Model and guide under the library's ELBO."""
    elbo = ClosedFormKL_ELBO()(it.model, it.guide)
    optimizer = adam(elbo.parameters())

    def step() -> None:
        optimizer.zero_grad()
        elbo(x, y).backward()
        optimizer.step()

    return step


def synchronised(steps: Mapping[str, Step], device: str) -> dict[str, Step]:
    """The same functions, each of which waits until a GPU is done."""

    def wait_after(step: Step) -> Step:
        def run() -> None:
            step()
            torch.cuda.synchronize()

        return run

    return dict(steps) if device == "cpu" else {name: wait_after(step) for name, step in steps.items()}
