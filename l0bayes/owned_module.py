"""Pyro modules that own their parameters.

Pyro's parameter store is global and keyed by name, and modules of the same name share what it holds: a second
guide made in the same process silently starts from, or never updates, the first one's values. Modules here get
a prefix of their own each, so that nothing is shared, whatever ``pyro.settings`` says about
``module_local_params``, and the caller's settings stay as they are.
"""

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro
from pyro.distributions import constraints
from pyro.nn import PyroModule
from pyro.poutine import runtime
from torch import nn

from l0bayes.compat import own_modules, own_parameters

_count = itertools.count(1)
_unheard: ContextVar[bool] = ContextVar("unheard", default=False)


@contextmanager
def parameters_unheard() -> Iterator[None]:
    """Within it, parameters are not announced to Pyro, if no handler outside could hear them anyway.

    For an ELBO that is differentiated by autograd and stepped by a torch optimizer: its own traces have no use for
    ``param`` sites, which cost tens of microseconds each. Under ``SVI.step`` or any other handler nothing changes.
    """
    token = _unheard.set(not runtime.am_i_wrapped())
    try:
        yield
    finally:
        _unheard.reset(token)


class OwnedModule(PyroModule):
    """A :class:`~pyro.nn.PyroModule` that shares no parameter through Pyro's global store.

    The module is the truth: save and load its ``state_dict``, not the store, whose names change from process to
    process. Names of sample sites are Pyro's ordinary ones. ``pyro.clear_param_store()`` frees what SVI left there.

    Subclasses call :meth:`claim_parameters` at the end of ``__init__``, reach their submodules and parameters by
    :meth:`child` and :meth:`parameter`, and announce them with :meth:`announce`. Copies and unpickled modules claim
    theirs by themselves.
    """

    _prefix: str

    def claim_parameters(self) -> None:
        """Gives the parameters of this module a prefix in Pyro's store that no other module has."""
        for module in self.modules():
            if isinstance(module, OwnedModule):
                module.__dict__["_prefix"] = f"{type(module).__name__}_{next(_count)}"

    def child(self, name: str) -> nn.Module:
        """A submodule, without the Pyro statements that reading it as an attribute would make."""
        module = own_modules(self)[name]
        if module is None:
            raise AttributeError(f"{type(self).__name__}.{name} is None")
        return module

    def parameter(self, path: str) -> nn.Parameter:
        """A parameter by its dotted path, likewise without statements."""
        *parents, name = path.split(".")
        module: nn.Module | None = self
        for parent in parents:
            module = own_modules(module)[parent] if module is not None else None
        parameter = None if module is None else own_parameters(module)[name]
        if parameter is None:
            raise AttributeError(f"{type(self).__name__}.{path} is None")
        return parameter

    def announce(self, name: str) -> None:
        """Makes a ``pyro.param`` statement for each trainable parameter of a submodule."""
        if not runtime.am_i_wrapped() or _unheard.get():
            return
        for path, parameter in self.child(name).named_parameters():
            if parameter.requires_grad:
                _announce(f"{self._prefix}.{name}.{path}", parameter)

    def __setstate__(self, state: dict[str, Any]) -> None:
        parent: Any = super()
        parent.__setstate__(state)
        self.claim_parameters()


def _announce(name: str, parameter: nn.Parameter) -> None:
    # The store keeps a copy of what is not contiguous, such as weights with channels last, and would train that.
    if not pyro.settings.get("module_local_params") and parameter.is_contiguous():
        store = pyro.get_param_store()
        if name in store and store[name] is not parameter:  # replaced since, as load_state_dict(assign=True) does
            del store[name]
        pyro.param(name, parameter)
        return
    # Pyro's optimizers ask for the unconstrained twin, which Pyro itself sets for constrained parameters only.
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
    statement = runtime.effectful(type="param")(lambda *_args, **_kwargs: parameter)
    statement(name, parameter, constraint=constraints.real, name=name)
