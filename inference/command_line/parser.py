"""The parser of the command line: options in groups, a help that is short first, and what near options are called."""

import difflib
import json
import re
import sys
from argparse import SUPPRESS
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_type_hints

from docstring_parser import parse
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from l0bayes.inference.command_line.option_groups import COMMON, GROUPS, POSITIONAL

_OWN = ("help", "help-all", "config", "print_config")
_LISTS = ("hidden", "inclusion", "drop")
_WIDTH = 80
_COLUMN = 26  # at which what an option means begins


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        name: as it is typed.
        summary: what it does, in a sentence.
        options: a dataclass of its options, with an attribute's meaning in its docstring.
    """

    name: str
    summary: str
    options: type[Any]


class Help(DefaultHelpFormatter):
    """Help of at most 80 columns, without the types that jsonargparse adds."""

    def __init__(self, prog: str, **_: Any) -> None:
        super().__init__(prog, max_help_position=_COLUMN, width=_WIDTH)  # type: ignore[no-untyped-call]

    def _expand_help(self, action: Any) -> str:
        return str(action.help or "")

    def _format_action_invocation(self, action: Any) -> str:
        """Without the second spelling that appends to a list."""
        said: str = super()._format_action_invocation(action)
        return re.sub(r", --[\w-]+\+ \S+", "", said)


def build_parser(commands: Sequence[Command], version: str, *, everything: bool) -> ArgumentParser:
    """Makes the parser.

    Args:
        commands: what there is to do.
        version: of the package.
        everything: whether the help lists all options, and says all of each; else those most in use, shortly.
    """
    parser = ArgumentParser(
        prog="l0bayes",
        description="Networks with gates, and what gates a regression needs.",
        epilog="l0bayes COMMAND --help lists a command's options, --help-all all that can be said of them.",
        version=version,
        formatter_class=Help,
    )
    subcommands = parser.add_subcommands(metavar="COMMAND", title="commands")
    for command in commands:
        subcommands.add_subcommand(command.name, _job(command, everything=everything), help=command.summary)
    return parser


def _job(command: Command, *, everything: bool) -> ArgumentParser:
    rest = "" if everything or command.name != "train" else "Further options: --help-all."
    words = [f"l0bayes {command.name}", *(name.upper() for name in _positional(command)), "[options]"]
    job = ArgumentParser(usage=" ".join(words), description=command.summary, epilog=rest, formatter_class=Help)
    job.add_argument("--config", action="config", help="a YAML file with these options")
    known = {field.name: field for field in fields(command.options)}
    kinds, meanings = get_type_hints(command.options), _meanings(command.options)
    for title, names in GROUPS[command.name].items():
        group = job.add_argument_group(title)
        for name in names:
            said = meanings[name] if everything else _short(meanings[name])
            if not everything and command.name == "train" and name not in COMMON:
                said = SUPPRESS
            _add(group, known[name], kinds[name], said)
    return job


def _positional(command: Command) -> list[str]:
    return [field.name for field in fields(command.options) if field.name in POSITIONAL]


def _add(group: Any, field: Field[Any], kind: Any, said: str) -> None:
    if field.name in POSITIONAL:
        group.add_argument(field.name, type=kind, help=said)
        return
    default = field.default if field.default_factory is MISSING else field.default_factory()
    required = default is MISSING
    if said != SUPPRESS and not required and default is not None and default is not False:
        shown = ",".join(map(str, default)) if isinstance(default, list) else str(default).lower()
        said += f" [{shown}]" if shown else ""
    given = {"required": True} if required else {"default": default}
    group.add_argument(f"--{_dashed(field.name)}", type=kind, help=said, metavar=_metavar(field.name, kind), **given)


def _metavar(name: str, kind: Any) -> str:
    if kind is bool:
        return "true|false"
    numbers = {int: "N", float: "X", float | None: "X", int | None: "N"}
    return numbers.get(kind, "A,B" if name in _LISTS else name.rpartition("_")[2].upper())


def _meanings(options: type[Any]) -> dict[str, str]:
    """Name of an option to what its class's docstring, or one that it is derived from, says of it."""
    found: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        documented = parse(kind.__doc__ or "").params
        found |= {one.arg_name: _plain(one.description or "") for one in documented}
    return found


def _plain(text: str) -> str:
    """Without the marks of reStructuredText."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    return " ".join(text.replace("``", "").replace("%", "%%").split())


def _short(text: str) -> str:
    """Its first sentence."""
    return re.split(r"(?<=[a-z\d)])\.(?: |$)|; ", text, maxsplit=1)[0]


def normalised(args: Sequence[str]) -> list[str]:
    """Arguments as the parser takes them: names with dashes, lists as ``300,100``.

    Args:
        args: as they were typed; underscores in the names of options will do too.
    """
    found: list[str] = []
    for arg in args:
        if found and found[-1].startswith("--") and found[-1][2:] in _LISTS:
            found.append(_listed(found[-1][2:], arg))
            continue
        if not arg.startswith("--"):
            found.append(arg)
            continue
        name, equals, value = arg[2:].partition("=")
        plain = name if name in _OWN or "." in name else _dashed(name)
        found.append(f"--{plain}{equals}{_listed(plain, value) if plain in _LISTS else value}")
    return found


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _listed(name: str, value: str) -> str:
    """``300,100`` as a list; one value too, where only lists are meant."""
    if value.startswith(("[", "-")) or value in ("null", "none", "") or (name == "inclusion" and "," not in value):
        return value
    items = [item.strip() for item in value.split(",")]
    return f"[{', '.join(items if name != 'drop' else map(json.dumps, items))}]"  # `no` is a name there, not False


def refuse_unknown(args: Sequence[str], commands: Mapping[str, Command]) -> None:
    """Ends the program at an option or a command that there is not, with what was probably meant.

    Args:
        args: normalised.
        commands: by name.
    """
    words = [arg for arg in args if not arg.startswith("-")]
    name = words[0] if args and words and not args[0].startswith("-") else None
    if name is not None and name not in commands:
        _refuse(f"there is no command {name!r}", name, commands, f"there are {', '.join(commands)}")
    if name is None:
        return
    known = [*(_dashed(field.name) for field in fields(commands[name].options)), *_OWN]
    for arg in args:
        option = arg[2:].partition("=")[0].partition(".")[0]
        if arg.startswith("--") and option not in known:
            _refuse(f"{name} has no option --{option}", option, known, f"l0bayes {name} --help-all lists them")


def _refuse(what: str, given: str, known: Any, where: str) -> None:
    near = difflib.get_close_matches(given, list(known), 1)
    option = "--" if "option" in what else ""
    hint = f"did you mean {option}{near[0]}?" if near else where
    print(f"l0bayes: {what}; {hint}", file=sys.stderr)  # noqa: T201
    sys.exit(2)
