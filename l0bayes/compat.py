"""Names that torch and Pyro keep to themselves, and that this library cannot do without: all in one place.

Everything else uses public names alone, so that a new version of torch or Pyro that changes one of these breaks here,
where ``tests/test_compat.py`` says which. Written for torch ≥ 2.6 and Pyro ≥ 1.9.1. Nothing of ours is imported.
"""

import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.infer.trace_mean_field_elbo import _check_mean_field_requirement
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "READS_ONE_NUMBER",
    "SEPARATE_PROJECTIONS",
    "HookedELBO",
    "HookedGuide",
    "SampleMessenger",
    "TorchDispatchMode",
    "argument_defaults",
    "check_mean_field",
    "check_value",
    "compiled_call",
    "has_hooks",
    "is_compiled",
    "mask_of",
    "own_buffers",
    "own_modules",
    "own_parameters",
    "run_uncompiled",
    "save_with_state",
    "set_compiled_call",
    "set_validation",
    "state_versions",
    "tree_leaves",
    "tree_map_tensors",
    "twin",
    "use_onednn",
    "validates",
    "with_versions",
]

_Kind = TypeVar("_Kind", bound=nn.Module)

# -- torch: operations below autograd ---------------------------------------------------------------------------------

# The operation by which one number of a tensor becomes a number of Python: .item() and bool() call it.
READS_ONE_NUMBER: Any = torch.ops.aten._local_scalar_dense.default  # noqa: SLF001


def argument_defaults(func: Any) -> dict[str, Any]:
    """Names of an operation's arguments, in order, and their defaults, ``None`` where there is none."""
    return {argument.name: argument.default_value for argument in func._schema.arguments}  # noqa: SLF001


def use_onednn(*, use: bool) -> bool:
    """Says whether torch may use oneDNN on CPUs; returns whether it might before.

    ``torch.backends.mkldnn.flags`` does so too, but sets flags of other devices besides, and warns of it.
    """
    before = bool(torch._C._get_mkldnn_enabled())  # noqa: SLF001
    torch._C._set_mkldnn_enabled(use)  # noqa: SLF001
    return before


def tree_leaves(tree: Any) -> list[Any]:
    """What nested lists, tuples, mappings, dataclasses and the like hold, in order."""
    leaves: list[Any] = _pytree.tree_leaves(tree)
    if not any(map(_opens, leaves)):
        return leaves
    return [inner for leaf in leaves for inner in (tree_leaves(_inside(leaf)) if _opens(leaf) else [leaf])]


def tree_map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same nesting with each tensor replaced by what a function makes of it."""

    def mapped(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        return _with(leaf, tree_map_tensors(function, _inside(leaf))) if _opens(leaf) else leaf

    return _pytree.tree_map(mapped, tree)


def _opens(leaf: Any) -> bool:
    """Whether something is a container that torch does not know of: a dataclass, or a mapping of another kind."""
    if isinstance(leaf, Tensor | int | float | str | None):
        return False
    return isinstance(leaf, Mapping) or (is_dataclass(leaf) and not isinstance(leaf, type))


def _inside(container: Any) -> dict[str, Any]:
    if isinstance(container, Mapping):
        return dict(container)
    return {own.name: getattr(container, own.name) for own in fields(container)}


def _with(container: Any, values: Mapping[str, Any]) -> Any:
    """A copy of such a container with other values."""
    other = copy.copy(container)
    if isinstance(container, Mapping):
        if not isinstance(container, MutableMapping):
            return dict(values)
        other.update(values)
        return other
    for name, value in values.items():
        object.__setattr__(other, name, value)  # a frozen one too
    return other


# -- torch: modules ---------------------------------------------------------------------------------------------------


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters, the very dict.

    The public ways take ten times as long, leave out second names, or, of Pyro's modules, make ``param`` statements.
    """
    return module._parameters  # noqa: SLF001


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers, the very dict."""
    return module._buffers  # noqa: SLF001


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own submodules, the very dict."""
    return module._modules  # noqa: SLF001


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody wants to be told when a module is called."""
    return bool(
        module._forward_hooks  # noqa: SLF001
        or module._forward_pre_hooks  # noqa: SLF001
        or module._backward_hooks  # noqa: SLF001
        or module._backward_pre_hooks  # noqa: SLF001
    )


def save_with_state(module: nn.Module, buffer: str) -> None:
    """Makes a buffer, if it is one that is not saved, part of the ``state_dict``."""
    module._non_persistent_buffers_set.discard(buffer)  # noqa: SLF001


def state_versions(state: Mapping[str, Any]) -> dict[str, int]:
    """The versions that modules noted in a ``state_dict``: name of the module to number."""
    notes: Mapping[str, Mapping[str, Any]] = getattr(state, "_metadata", {})
    return {name: note["version"] for name, note in notes.items() if note.get("version", 1) != 1}


def with_versions(state: Mapping[str, Tensor], net: nn.Module, versions: Mapping[str, int]) -> dict[str, Tensor]:
    """A ``state_dict`` with such notes; without one for a module, it loads as the oldest version would."""
    noted: OrderedDict[str, Tensor] = OrderedDict(state)
    names = [name for name, _ in net.named_modules(remove_duplicate=False)]
    noted._metadata = {name: {"version": versions.get(name, 1)} for name in names}  # type: ignore[attr-defined]  # noqa: SLF001
    return noted


def twin(module: nn.Module, kind: type[_Kind]) -> _Kind:
    """A module of another class with a module's attributes and parameters, in containers of its own.

    Parameters, buffers and modules that one of them is given later do not turn up in the other.
    """
    new = kind.__new__(kind)
    new.__dict__.update(module.__dict__)
    for name in ("_parameters", "_buffers", "_modules"):
        new.__dict__[name] = dict(module.__dict__[name])
    return new


# Attribute of nn.MultiheadAttention: whether one tensor holds the projections of queries, keys and values. Encoder
# layers take their fused path by it, which knows only attention of full width.
SEPARATE_PROJECTIONS: Mapping[str, bool] = {"_qkv_same_embed_dim": False}


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what ``torch.compile`` made of another, which is its only submodule."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # not imported just to ask
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def run_uncompiled(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Calls a module with its hooks, past what ``module.compile()`` made of its call."""
    return module._call_impl(*args, **kwargs)  # noqa: SLF001


def compiled_call(module: nn.Module) -> Any:
    """What ``module.compile()`` made of a module's call; ``None`` if it runs as it is."""
    return module._compiled_call_impl  # noqa: SLF001


def set_compiled_call(module: nn.Module, call: Any) -> None:
    """Lets a module run by a compiled call, or as it is if ``None``: torch compiles in place, and does not undo it."""
    attribute: Any = module
    attribute._compiled_call_impl = call  # noqa: SLF001


# -- torch: distributions ---------------------------------------------------------------------------------------------


def validates(distribution: Any) -> bool:
    """Whether a distribution checks its arguments and values; its class says so until it is constructed."""
    return bool(distribution._validate_args)  # noqa: SLF001


def set_validation(distribution: Any, validate: bool) -> None:  # noqa: FBT001 (a value to be set)
    """Says whether a distribution checks its values: subclasses that construct their parent without checks need it."""
    distribution._validate_args = validate  # noqa: SLF001


def check_value(distribution: Any, value: Tensor) -> None:
    """Raises ``ValueError`` if a distribution checks its values, and a value is not in its support."""
    if validates(distribution):
        distribution._validate_sample(value)  # noqa: SLF001


# -- Pyro -------------------------------------------------------------------------------------------------------------


def mask_of(masked: Any) -> Any:
    """The mask of a :class:`~pyro.distributions.MaskedDistribution`."""
    return masked._mask  # noqa: SLF001


def check_mean_field(model_trace: Trace, guide_trace: Trace) -> None:
    """Warns where a guide's sites come in another order than the model's: mean field may not hold then."""
    _check_mean_field_requirement(model_trace, guide_trace)


class SampleMessenger(Messenger):
    """An effect handler for sample statements."""

    def on_sample(self, msg: Any) -> None:
        """Called with the message of each sample statement before it is carried out."""

    def after_sample(self, msg: Any) -> None:
        """Called with the message once it has been, by whatever handler."""

    def _pyro_sample(self, msg: Any) -> None:
        self.on_sample(msg)

    def _pyro_post_sample(self, msg: Any) -> None:
        self.after_sample(msg)


class HookedELBO(TraceMeanField_ELBO):
    """Pyro's mean-field ELBO with the steps that a subclass may do otherwise under names of their own."""

    def traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        """Traces of model and guide, for each particle."""
        parent: Any = super()
        yield from parent._get_traces(model, guide, args, kwargs)  # noqa: SLF001

    def trace_pair(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        """Traces of model and guide, for one particle."""
        parent: Any = super()
        pair: tuple[Trace, Trace] = parent._get_trace(model, guide, args, kwargs)  # noqa: SLF001
        return pair

    def particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[float, Tensor]:
        """The loss of one particle, as a number and as a tensor to differentiate."""
        parent: Any = super()
        loss: tuple[float, Tensor] = parent._differentiable_loss_particle(model_trace, guide_trace)  # noqa: SLF001
        return loss

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        return self.traces(model, guide, args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return self.trace_pair(model, guide, args, kwargs)

    def _differentiable_loss_particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[float, Tensor]:
        return self.particle(model_trace, guide_trace)


class HookedGuide(AutoGuide):
    """Pyro's :class:`~pyro.infer.autoguide.AutoGuide` with what its subclasses use and override under public names."""

    def __init__(self, model: Callable[..., Any], *, create_plates: Callable[..., Any] | None = None) -> None:
        parent: Any = super()
        parent.__init__(model, create_plates=create_plates)

    def trace_model(self, *args: Any, **kwargs: Any) -> None:
        """Runs the model once, to see its sites."""
        parent: Any = super()
        parent._setup_prototype(*args, **kwargs)  # noqa: SLF001

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        self.trace_model(*args, **kwargs)

    @property
    def hides(self) -> Callable[[Any], bool]:
        """Whether a site of the model is none of the guide's, by its message."""
        hidden: Callable[[Any], bool] = self._prototype_hide_fn
        return hidden

    @property
    def plate_frames(self) -> dict[str, Any]:
        """Plates of the model's sites by name, the very dict, for the guide to fill."""
        frames: dict[str, Any] = self._prototype_frames
        return frames

    def plates_for(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Plates for one run of the guide, by name; those of the ``AutoGuideList`` that it is a part of, if it is."""
        parent: Any = self
        plates: dict[str, Any] = parent._create_plates(*args, **kwargs)  # noqa: SLF001
        return plates

    def agree_with_list(self) -> None:
        """Checks that the model looks as it does to the ``AutoGuideList`` that the guide is a part of, if it is."""
        if self.master is not None:
            self.master()._check_prototype(self.prototype_trace)  # noqa: SLF001

    @property
    def own_model(self) -> Any:
        """The model; ``None`` in what was pickled."""
        return self._model[0]

    def set_model(self, model: Any) -> None:
        """Takes a model, which is not one of the guide's submodules."""
        self._model = (model,)

    def before_loading(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Called before the guide's own part of a ``state_dict``, under a prefix, is loaded."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self.before_loading(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        # AutoGuide's own would take the model away from the original.
        return self.__dict__ | {"_model": (None,), "master": None}
