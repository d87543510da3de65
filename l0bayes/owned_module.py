"""Pyro modules that own their parameters.

Pyro's parameter store is global and keyed by name, and modules of the same name share what it holds: a second
guide made in the same process silently starts from, or never updates, the first one's values. Modules here get
a name of their own each, so that nothing is shared, whatever ``pyro.settings`` says about
``module_local_params``, and the caller's settings stay as they are.
"""

import itertools
import weakref
from typing import Any

import pyro
from pyro.nn import PyroModule

_count = itertools.count(1)


class OwnedModule(PyroModule):
    """A :class:`~pyro.nn.PyroModule` that shares no parameter through Pyro's global store.

    Subclasses call :meth:`claim_parameters` at the end of ``__init__``. Copies and unpickled modules claim
    theirs by themselves.
    """

    def claim_parameters(self) -> None:
        """Gives this module, and the Pyro modules in it, a root name that no other module has."""
        context = type(self._pyro_context)()
        root = f"{type(self).__name__}_{next(_count)}"
        for path, module in self.named_modules():
            if isinstance(module, PyroModule):
                module._pyro_name = f"{root}.{path}" if path else root  # noqa: SLF001 (no public setter)
                module._pyro_context = context  # noqa: SLF001

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if pyro.settings.get("module_local_params"):
            # SVI.step asks every parameter for its unconstrained twin, which Pyro then sets for PyroParams only.
            for parameter in self.parameters():
                if not hasattr(parameter, "unconstrained"):
                    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
        return super().__call__(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.claim_parameters()
