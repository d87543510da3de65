"""A network's modules once more, sharing all they have: what runs in place of the user's own.

Other tensors and widths are put there, so that the user's modules are never touched: they are whole for whoever else
uses them meanwhile, such as another thread, and after an error.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from l0bayes.compat import compiled_call, is_compiled, own_buffers, own_modules, own_parameters, set_compiled_call, twin
from l0bayes.subnetwork.references import PLAIN, References, alike, contents, refill

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_HOOKS = frozenset(
    name for name in _OF_EVERY_MODULE if name.endswith(("_hooks", "_hooks_with_kwargs", "_always_called"))
)


class Mirror:
    """A network of shallow copies, for one run.

    Parameters, buffers and all else that modules hold are those of the network; its layers in lists and the like are
    copies too, and hooks are called with copies. What was compiled runs as it is, since each draw of the gates has
    shapes of its own. :meth:`hand_back` gives the network what a run has left on the copies.

    Args:
        net: the network.

    Attributes:
        net: its copy.
    """

    def __init__(self, net: nn.Module) -> None:
        modules = _distinct(net)
        copies: dict[int, Any] = {id(module): twin(module, type(module)) for module in modules}
        self._references = References(copies)
        self._pairs = [(module, copies[id(module)]) for module in modules]
        self._changes: list[_Change] = []
        for module, copy in self._pairs:
            _turn(module, copy, self._references)
            for own, now in zip(_parts(module), _parts(copy), strict=True):
                self._changes.append(_Change(own, now, dict(now)))
        self._undo: list[Callable[[], object]] = []
        self.net: nn.Module = copies[id(net)]

    def put_tensor(self, owner: nn.Module, name: str, tensor: Tensor) -> None:
        """Puts a tensor in the place of a parameter or buffer of a copy, until :meth:`hand_back`."""
        own: dict[str, Any] = own_parameters(owner)
        if name not in own:
            own = own_buffers(owner)
        self._undo.append(partial(own.__setitem__, name, own[name]))
        own[name] = tensor

    def put_attribute(self, owner: nn.Module, name: str, value: Any) -> None:
        """Gives an attribute of a copy another value, likewise."""
        self._undo.append(partial(setattr, owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def put_forward(self, owner: nn.Module, forward: Callable[..., Any]) -> None:
        """Gives a copy another ``forward``, likewise; it is called with the one before as its first argument."""
        own = vars(owner)
        before = own.get("forward")
        self._undo.append(
            partial(own.pop, "forward") if before is None else partial(own.__setitem__, "forward", before)
        )
        own["forward"] = partial(forward, owner.forward)

    def hand_back(self) -> None:
        """Gives the network what was assigned on copies, and what came into its lists; but nothing that was put there.

        The copies, which hooks of the backward pass may still ask, have the network's own tensors again.
        """
        for undo in reversed(self._undo):
            undo()
        copied, filled = self._references.objects, self._references.containers
        changes = [change for change in self._changes if not alike(change.now.values(), change.given.values())]
        if not changes and not copied and not filled:
            return
        table = {id(copy): original for original, copy in self._pairs}
        table |= {id(copy): original for original, copy, _ in (*copied, *filled)}
        back = References(table)
        for change in changes:
            change.hand_back(back)
        for original, copy, attributes in copied:
            _Change(vars(original), vars(copy), attributes).hand_back(back)
        for original, copy, items in filled:
            _fill(original, copy, items, back)


def _parts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return vars(module), own_parameters(module), own_buffers(module), own_modules(module)


def _turn(original: nn.Module, copy: nn.Module, references: References) -> None:
    """Lets a copy of a module refer to copies instead of modules."""
    attributes, modules = vars(copy), own_modules(copy)
    for name, module in modules.items():
        modules[name] = references(module)
    names = attributes.keys() - _OF_EVERY_MODULE
    if any(map(attributes.get, _HOOKS)):
        names |= attributes.keys() & _HOOKS
    for name in names:
        value = attributes[name]
        if type(value) not in PLAIN:
            attributes[name] = references(value)
    if is_compiled(copy):
        attributes["forward"] = next(module for module in modules.values() if module is not None).__call__
    if (call := compiled_call(copy)) is not None and call is compiled_call(original):  # it would call the original
        set_compiled_call(copy, None)


class _Change(NamedTuple):
    """Attributes, parameters, buffers or submodules of a module, by name.

    Attributes:
        own: those of the module.
        now: those of its copy.
        given: those that the copy had at the start.
    """

    own: dict[str, Any]
    now: Mapping[str, Any]
    given: Mapping[str, Any]

    def hand_back(self, references: References) -> None:
        """Makes the changes of the copy to the module's own."""
        for name, value in self.now.items():
            if name not in self.given or value is not self.given[name]:
                self.own[name] = references(value)
        for name in self.given.keys() - self.now.keys():
            self.own.pop(name, None)


def _fill(own: Any, copy: Any, given: list[Any], references: References) -> None:
    """Lets a container of the network hold what its copy, which may be itself, holds by now."""
    now = contents(copy)
    returned = [references(item) for item in now]
    if not alike(now, given) if copy is not own else not alike(returned, now):
        refill(own, returned)


def _distinct(net: nn.Module) -> list[nn.Module]:
    """A network's modules, each once; as ``net.modules()``, in a tenth of the time."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module] = [net]
    while waiting:
        module = waiting.pop()
        if id(module) not in found:
            found[id(module)] = module
            waiting.extend(child for child in own_modules(module).values() if child is not None)
    return list(found.values())
