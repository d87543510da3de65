"""Equivalence checks: does the network, with closed features removed, compute what it does with them masked?

Structure shows which slices belong together, not what else the user's code takes for granted, such as a width written
into a ``view``. So it is checked, in float64 and with random weights, and groups that fail are left dense.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from l0bayes.compat import tree_leaves, tree_map_tensors
from l0bayes.errors import StructureError
from l0bayes.layers.kinds import DROPOUTS
from l0bayes.structure import GateGroup, Structure
from l0bayes.subnetwork.masked import masked_forward
from l0bayes.subnetwork.running import run_subnetwork
from l0bayes.subnetwork.selection import Selector

# Of the largest output: far above the rounding even of float32, far below what a feature more or less does.
_TOLERANCE = 1e-4


def leave_out_what_differs(net: nn.Module, structure: Structure, inputs: tuple[Any, ...]) -> Structure:
    """The structure without the groups with which masked and removed features give different outputs.

    Args:
        net: the network; a copy of it is run.
        structure: its gate groups.
        inputs: an example of its arguments.

    Returns:
        The structure, with such groups listed as dense.

    Raises:
        StructureError: if no group is left.
    """
    check = _EquivalenceCheck(net, inputs)
    good: list[GateGroup] = list(structure.groups)
    bad: dict[str, str] = {}
    for case in check.cases():
        candidates, good = good, []
        check.sort(case, candidates, good, bad)
    if not good:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in bad.items())
        raise StructureError(
            f"{type(net).__name__} gives different outputs with closed features masked and removed ({reasons}). Gate "
            "fewer layers, by patterns in gates"
        )
    return structure.without(bad)


@torch.enable_grad()
def refuse_recomputation(net: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raises if modules run again in backward, when the tensors of the subnetwork are no longer in them.

    Args:
        net: the network; a copy of it is run.
        inputs: an example of its arguments.

    Raises:
        StructureError: if they do.
    """
    net, again = copy.deepcopy(net).train(), list[str]()
    given = tree_map_tensors(lambda x: x.clone().requires_grad_() * 1 if x.is_floating_point() else x, inputs)
    try:
        outputs = tree_leaves(net(*given))
        for name, module in net.named_modules():
            module.register_forward_pre_hook(lambda _module, _args, name=name: again.append(name))
        sums = [y.sum() for y in outputs if isinstance(y, Tensor) and y.requires_grad]
        if sums:
            torch.stack([y.double() for y in sums]).sum().backward()
    except Exception:  # noqa: BLE001 (a network that cannot be trained on this example: nothing to be learned)
        return
    if again:
        raise StructureError(
            f"net: {again[0]!r} runs again in backward (torch.utils.checkpoint), without the gates by then. Call the "
            "layers directly; what closed gates leave out needs no memory"
        )


def keep_the_input_in_sight(
    net: nn.Module, structure: Structure, inputs: tuple[Any, ...], names: set[str]
) -> Structure:
    """Groups without which the output no longer depends on the input keep a unit.

    Args:
        net: the network; a copy of it is run.
        structure: its gate groups.
        inputs: an example of its arguments.
        names: groups that may vanish as far as their surroundings tell.

    Returns:
        The structure, with ``min_units`` 1 for those of ``names`` that are the only way the input takes.
    """
    if not names:
        return structure
    ordered = [group.name for group in structure.groups if group.name in names]
    blind = _EquivalenceCheck(net, inputs, exact=False).blind_without(structure.groups, ordered)
    groups = tuple(replace(g, min_units=1) if g.name in blind else g for g in structure.groups)
    return replace(structure, groups=groups)


# -- which gates ------------------------------------------------------------------------------------------------------


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
class _Case:
    """Some gates, in evaluation or training mode."""

    gates: Callable[[int], Tensor]
    training: bool = False


class _NoChance(TorchFunctionMode):
    """Makes random functions certain: their draws would be others for another width, which is no fault."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if "dropout" in name and args:
            return args[0]
        if name in ("bernoulli_", "normal_", "uniform_"):
            return args[0].fill_(1.0)
        result = func(*args, **kwargs)
        return result.fill_(0.5) if name in ("rand", "randn", "rand_like", "randn_like", "bernoulli") else result


# -- the check --------------------------------------------------------------------------------------------------------


def _drop_nothing(net: nn.Module) -> None:
    """What is dropped would be something else for another width."""
    for module in net.modules():
        if isinstance(module, DROPOUTS):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def _another(x: Tensor) -> Tensor:
    """An input of the same kind with other values."""
    return x + torch.linspace(0.5, 1, x.numel()).reshape(x.shape).to(x) if x.is_floating_point() else x.flip(-1)


class _EquivalenceCheck:
    """A copy of the network with random weights, since a layer that starts at zero would hide a difference."""

    def __init__(self, net: nn.Module, inputs: tuple[Any, ...], *, exact: bool = True) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].dim() > 3:  # noqa: PLR2004 (images)
            inputs = (inputs[0][:1],)  # one tells as much as many
        self._net, self._inputs = copy.deepcopy(net).eval(), inputs
        if exact:
            self._turn_to_double()
        _drop_nothing(self._net)
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
            self._net(*self._given())
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

    def cases(self) -> Iterator[_Case]:
        """What is checked, the most telling first; training mode only where the full network runs in it."""
        yield _Case(_early_closed)
        yield _Case(_late_closed)
        yield _Case(_one_open)
        try:
            with torch.no_grad(), _NoChance():
                copy.deepcopy(self._net).train()(*self._given())
        except (RuntimeError, ValueError, TypeError):  # batch norm of a single value per channel
            return
        yield _Case(_late_closed, training=True)

    def sort(self, case: _Case, groups: Sequence[GateGroup], good: list[GateGroup], bad: dict[str, str]) -> None:
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

    def _in_mode(self, case: _Case) -> nn.Module:
        """The network; in training mode a fresh copy, since each run changes what it keeps from batch to batch."""
        return copy.deepcopy(self._net).train() if case.training else self._net

    @torch.no_grad()
    def _difference(self, case: _Case, groups: Sequence[GateGroup]) -> str | None:
        """How the subnetwork differs from the masked network; ``None`` if it does not."""
        device = next(self._net.parameters()).device
        gates = {group.name: case.gates(group.size).to(device) for group in groups}
        try:
            with torch.random.fork_rng(devices=()), _NoChance():
                net = self._in_mode(case)
                selection = Selector(net, groups)(net, gates)
                selected = run_subnetwork(net, selection, *self._given())  # first, since it fails early
                masked = masked_forward(self._in_mode(case), groups, gates, *self._given())
            for found, wanted in zip(tree_leaves(selected), tree_leaves(masked), strict=True):
                if isinstance(wanted, Tensor):
                    _compare(found, wanted)
        except Exception as error:  # noqa: BLE001 (whatever a narrower network raises, its layer stays dense)
            return " ".join(str(error).split()) or type(error).__name__
        return None


def _compare(found: Tensor, wanted: Tensor) -> None:
    """Raises ``AssertionError`` unless two outputs are the same up to rounding."""
    finite = wanted[wanted.isfinite()] if wanted.is_floating_point() else wanted[:0]
    largest = float(finite.abs().max()) if finite.numel() else 1.0
    torch.testing.assert_close(found, wanted, rtol=0, atol=_TOLERANCE * largest, check_dtype=False, equal_nan=True)
