"""A trial of a structure: a copy of the network with random weights, run masked and narrowed for telling gates."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from l0bayes.compat import tree_leaves, tree_map_tensors
from l0bayes.structure import GateGroup
from l0bayes.subnetwork.chance import NoChance, drop_nothing
from l0bayes.subnetwork.comparing import FewerDigits, LargestNumber, compare, compare_gradients, gradients
from l0bayes.subnetwork.masked import masked_forward
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selector


def _early_closed(size: int) -> Tensor:
    """Gates of which a third is closed, irregularly and mostly early ones: equal parts would not lose equally many."""
    generator = torch.Generator().manual_seed(size)
    order = torch.rand(size, generator=generator, dtype=torch.float64) + 2 * torch.arange(size) / size
    values = 0.25 + 0.5 * torch.rand(size, generator=generator, dtype=torch.float64)
    values[order.argsort()[: max(size // 3, min(size - 1, 1))]] = 0.0
    return values


def _late_closed(size: int) -> Tensor:
    """The other way round: what depends on the order of features shows in one of the two."""
    return _early_closed(size).flip(0)


def _one_open(size: int) -> Tensor:
    """A single gate, in the middle: a dimension of size 1 may be taken for none."""
    values = torch.zeros(size, dtype=torch.float64)
    values[size // 2] = 0.5
    return values


@dataclass(frozen=True)
class Case:
    """Some gates, in evaluation or training mode."""

    gates: Callable[[int], Tensor]
    training: bool = False


def _another(x: Tensor) -> Tensor:
    """An input of the same kind with other values."""
    return x + torch.linspace(0.5, 1, x.numel()).reshape(x.shape).to(x) if x.is_floating_point() else x.flip(-1)


class Trial:
    """A copy of the network with random weights, since a layer that starts at zero would hide a difference.

    Args:
        net: the network.
        inputs: an example of its arguments.
        exact: whether it runs in float64 if it can.
    """

    def __init__(self, net: nn.Module, inputs: tuple[Any, ...], *, exact: bool = True) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].dim() > 3:  # noqa: PLR2004 (images)
            inputs = (inputs[0][:1],)  # one tells as much as many
        self._net, self._inputs = copy.deepcopy(net).eval(), inputs
        self._double = False
        if exact:
            self._turn_to_double()
        drop_nothing(self._net)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, tensor in [*self._net.named_parameters(), *self._net.named_buffers()]:
                if not tensor.is_floating_point():
                    continue
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
                if isinstance(tensor, nn.Parameter):
                    tensor.copy_(noise * (tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 1.0))
                elif name.endswith("running_var"):
                    tensor.copy_(0.5 + noise.abs())
                elif name.endswith("running_mean"):
                    tensor.copy_(noise)

    def blind_without(self, groups: Sequence[GateGroup], names: Sequence[str]) -> set[str]:
        """Those of ``names`` any one of which, closed, leaves an output that does not depend on the input.

        By halves, since what can be closed together can be closed alone. Every other one makes a half: branches
        side by side come one after the other, and closing all of them would hide that each can do without.
        """
        if not names or self.sees_the_input(groups, set(names)):
            return set()
        if len(names) == 1:
            return set(names)
        return self.blind_without(groups, names[::2]) | self.blind_without(groups, names[1::2])

    @torch.no_grad()
    def _turn_to_double(self) -> None:
        """Turns to float64, unless the network insists on a dtype."""
        net, inputs = self._net, self._inputs
        self._net = copy.deepcopy(net).double()
        self._inputs = tree_map_tensors(lambda x: x.double() if x.is_floating_point() else x, inputs)
        try:
            with FewerDigits() as digits:
                self._net(*self._given())
            self._double = not digits.seen
        except Exception:  # noqa: BLE001 (whatever it says)
            self._net, self._inputs = net, inputs

    @torch.no_grad()
    def sees_the_input(self, groups: Sequence[GateGroup], closed: set[str]) -> bool:
        """Whether the output still depends on the input when some groups are closed altogether."""
        device = next(self._net.parameters()).device
        gates = {g.name: torch.full((g.size,), float(g.name not in closed), device=device) for g in groups}
        others = tree_map_tensors(_another, self._given())
        try:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(0)
                first = tree_leaves(masked_forward(self._net, groups, gates, *self._given()))
                torch.manual_seed(0)
                second = tree_leaves(masked_forward(self._net, groups, gates, *others))
        except Exception:  # noqa: BLE001 (it takes no other input: nothing to be learned)
            return True
        return any(isinstance(y, Tensor) and not torch.equal(y, z) for y, z in zip(first, second, strict=True))

    def _given(self) -> tuple[Any, ...]:
        """The inputs, anew for each run: the network may write into them."""
        given: tuple[Any, ...] = tree_map_tensors(torch.clone, self._inputs)
        return given

    def cases(self) -> Iterator[Case]:
        """What is checked, the most telling first; training mode only where the full network runs in it."""
        yield Case(_early_closed)
        yield Case(_late_closed)
        yield Case(_one_open)
        try:
            with torch.no_grad(), NoChance():
                copy.deepcopy(self._net).train()(*self._given())
        except (RuntimeError, ValueError, TypeError):  # batch norm of a single value per channel
            return
        yield Case(_late_closed, training=True)

    def sort(self, case: Case, groups: Sequence[GateGroup], good: list[GateGroup], bad: dict[str, str]) -> None:
        """Puts each group where it belongs, by halves: most networks need one look."""
        reason = self._difference(case, [*good, *groups]) if groups else None
        if reason is None:
            good.extend(groups)
        elif len(groups) == 1:
            bad[groups[0].name] = f"with its closed features removed the network does not compute the same: {reason}"
        else:
            middle = len(groups) // 2
            self.sort(case, groups[:middle], good, bad)
            self.sort(case, groups[middle:], good, bad)

    def _in_mode(self, case: Case) -> nn.Module:
        """The network; in training mode a fresh copy, since each run changes what it keeps from batch to batch."""
        return copy.deepcopy(self._net).train() if case.training else self._net

    def _difference(self, case: Case, groups: Sequence[GateGroup]) -> str | None:
        """How the subnetwork differs from the masked network; ``None`` if it does not."""
        device = next(self._net.parameters()).device
        gates = {group.name: case.gates(group.size).to(device) for group in groups}
        try:
            with torch.random.fork_rng(devices=()), NoChance(), torch.set_grad_enabled(not self._double):
                net = self._in_mode(case)
                selection = Selector(net, groups)(net, gates)
                selected = run_subnetwork(net, selection, *self._given())  # first, since it fails early
                full = self._in_mode(case)
                masked = masked_forward(full, groups, gates, *self._given())
                self._compare(
                    selected, masked, lambda: masked_forward(self._in_mode(case), groups, gates, *self._given())
                )
                if not self._double:
                    compare_gradients(net, gradients(net, selected), gradients(full, masked))
        except Exception as error:  # noqa: BLE001 (whatever a narrower network raises, its layer stays dense)
            return " ".join(str(error).split()) or type(error).__name__
        return None

    def _compare(self, found: Any, wanted: Any, again: Callable[[], Any]) -> None:
        """Raises ``AssertionError`` unless outputs agree; looks at what is in between only where they seem not to."""
        try:
            compare(found, wanted, double=self._double)
        except AssertionError:
            if not self._double:
                raise
            with LargestNumber() as numbers:
                again()
            compare(found, wanted, largest=numbers.largest)
