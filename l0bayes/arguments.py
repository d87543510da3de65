"""Input validation of public functions by their annotations: a wrong kind of argument is named at the door.

Annotations of a function say what each argument may be; :func:`checked` holds every call to them, so that a mistake is
an error that names the argument, the value and what it must be, and not one from ten calls below, or a wrong result.
What goes beyond kinds, such as ranges, the functions check themselves.
"""

import collections.abc
import functools
import inspect
import numbers
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor, nn

from l0bayes.errors import ArgumentError

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PLAIN = (float, int)
_SHOWN = 80  # characters of a value
_WITHOUT = (collections.abc.Callable, collections.abc.Iterable)  # kinds whose members are not looked at
_WORDS: dict[Any, str] = {
    float: "a number",
    int: "an integer",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
    collections.abc.Callable: "callable",
    collections.abc.Iterable: "something to iterate over",
    collections.abc.Sequence: "a sequence",
    collections.abc.Mapping: "a mapping",
    Tensor: "a tensor",
    nn.Module: "a torch.nn.Module",
}


def checked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """A function that refuses arguments which are not what its annotations say.

    Args:
        function: a function, or the ``__init__`` of a class.

    Returns:
        The function; it raises :class:`~l0bayes.errors.ArgumentError`.
    """
    return checked_but()(function)


def checked_but(*own: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """The same, but for arguments that the function checks itself, with a remedy that annotations do not know.

    Args:
        own: their names.
    """
    return lambda function: _with_door(function, own)


def _with_door(function: Callable[_P, _R], own: tuple[str, ...]) -> Callable[_P, _R]:
    signature = inspect.signature(function)
    hints: dict[str, Any] = {}

    @functools.wraps(function)
    def door(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not hints:
            hints.update({name: hint for name, hint in get_type_hints(function).items() if name not in own})
        for name, value in _given(signature, args, kwargs):
            if name in hints:
                check_argument(name, value, hints[name])
        return function(*args, **kwargs)

    return door


def _given(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Names and values of the arguments of a call; none if they do not fit the signature, which Python says itself."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((name, one) for one in value)
        elif kind is not inspect.Parameter.VAR_KEYWORD:
            yield name, value


def check_fields(options: Any) -> None:
    """Raises unless each field of a dataclass is what its annotation says; for its ``__post_init__``."""
    hints = get_type_hints(type(options))
    for field in fields(options):
        check_argument(field.name, getattr(options, field.name), hints[field.name])


def check_argument(name: str, value: Any, hint: Any) -> None:
    """Raises :class:`~l0bayes.errors.ArgumentError` unless an argument is what an annotation says."""
    if not _fits(value, hint):
        raise ArgumentError(f"{name} must be {_described(hint)}; got {_shown(value)}")


def check_real(name: str, value: Any) -> None:
    """Raises :class:`~l0bayes.errors.ArgumentError` unless ``value`` is a real number, or a tensor of such.

    For constructors that a step of training calls many times: what is right costs a look or two.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise ArgumentError(f"{name} must be real; got a tensor of {value.dtype}")
    elif type(value) not in _PLAIN:
        check_argument(name, value, float | Tensor)


def check_flag(name: str, value: Any) -> None:
    """Raises :class:`~l0bayes.errors.ArgumentError` unless ``value`` is ``True``, ``False`` or ``None``."""
    if value is not None and value is not False and value is not True:
        check_argument(name, value, bool | None)


def check_guide(guide: Any, *methods: str) -> None:
    """Raises :class:`~l0bayes.errors.ArgumentError` unless ``guide`` offers what is asked of it."""
    if missing := [method for method in methods if not callable(getattr(guide, method, None))]:
        raise ArgumentError(
            f"guide must be a guide of gates, such as HardConcreteGuide(model); got {type(guide).__name__}, which has "
            f"no {missing[0]}(). The model comes first, then the guide"
        )


def check_file(name: str, path: str | Path) -> Path:
    """The path, if it can be that of a file.

    Raises:
        ArgumentError: if it is empty, or a folder.
    """
    if not str(path) or Path(path).name in ("", ".."):
        raise ArgumentError(f"{name} must be the path of a file; got {str(path)!r}")
    if Path(path).is_dir():
        raise ArgumentError(f"{name} must be the path of a file; got {str(path)!r}, which is a folder")
    return Path(path)


def _shown(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, nn.Module):
        return f"a module, {type(value).__name__}"
    shown = repr(value)
    return f"{shown if len(shown) <= _SHOWN else f'{shown[:_SHOWN]} …'} ({type(value).__name__})"


def _fits(value: Any, hint: Any) -> bool:  # noqa: PLR0911 (one case of an annotation a line)
    if hint is Any:
        return True
    if isinstance(hint, TypeVar):
        return _fits(value, hint.__bound__ or Any)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if hint is None:
        return value is None
    if hint in (float, int, bool):
        return _is_number(value, hint)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is None:
        return isinstance(value, hint)
    return isinstance(value, origin) and not _is_text(value, origin) and _members_fit(value, origin, args)


def _is_number(value: Any, kind: type) -> bool:
    is_bool = isinstance(value, bool | np.bool_)
    if kind is bool:
        return is_bool
    return isinstance(value, numbers.Real if kind is float else numbers.Integral) and not is_bool


def _is_text(value: Any, origin: Any) -> bool:
    """Whether a text or bytes stands where a sequence of something is meant."""
    return isinstance(value, str | bytes) and origin is not str


def _members_fit(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    if isinstance(value, Mapping):
        return all(_fits(key, args[0]) and _fits(one, args[1]) for key, one in value.items())
    if not isinstance(value, list | tuple) or not args or origin is collections.abc.Iterable:
        return True  # going through anything else may cost, or use it up
    if origin is tuple and args[-1] is not Ellipsis:
        return len(value) == len(args) and all(map(_fits, value, args))
    return all(_fits(one, args[0]) for one in value)


def _described(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = list(dict.fromkeys(map(_described, args)))
        return ", ".join(parts[:-1]) + " or " + parts[-1] if len(parts) > 1 else parts[0]
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if isinstance(hint, TypeVar):
        return _described(hint.__bound__)
    kind = origin or hint
    name = getattr(kind, "__name__", str(kind))
    word = _WORDS.get(kind) or f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    members = [_described(one) for one in args if one not in (Any, Ellipsis)] if kind not in _WITHOUT else []
    return f"{word} of {' and '.join(members)}" if members else word
