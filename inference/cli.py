"""The command line: ``l0bayes train``, and what can be done with what it leaves; ``l0bayes select`` for regressions."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from l0bayes.errors import L0BayesError
from l0bayes.inference.command_line.evaluate import EvaluateOptions, evaluate_saved
from l0bayes.inference.command_line.export import ExportOptions, export_saved
from l0bayes.inference.command_line.parser import Command, build_parser, normalised, refuse_unknown
from l0bayes.inference.command_line.report import ReportOptions, report, summary_lines
from l0bayes.inference.command_line.select import SelectOptions, select
from l0bayes.inference.command_line.train import train
from l0bayes.inference.command_line.train_options import TrainOptions

_INTERRUPTED, _TERMINATED = 130, 143


def _train(options: TrainOptions) -> str:
    summary = train(options)
    return summary_lines(summary, options.out) if summary else ""  # only the first of several processes has one


_COMMANDS: dict[str, tuple[Command, Callable[[Any], str]]] = {
    command.name: (command, run)
    for command, run in (
        (Command("train", "Train a network with gates on images, compact it, and report.", TrainOptions), _train),
        (Command("evaluate", "Run a saved network on data.", EvaluateOptions), evaluate_saved),
        (Command("report", "Make tables and pictures of a run anew.", ReportOptions), report),
        (Command("export", "Write a saved network for other programs.", ExportOptions), export_saved),
        (Command("select", "Find the columns of a CSV file that explain another.", SelectOptions), select),
    )
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: arguments; those of the process if ``None``.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    given = normalised(sys.argv[1:] if args is None else args)
    commands = {name: command for name, (command, _) in _COMMANDS.items()}
    refuse_unknown(given, commands)
    everything = not {"--help", "-h"} & set(given)  # what has no help is not in a configuration that is printed either
    parser = build_parser(tuple(commands.values()), _version(), everything=everything)
    parsed = parser.parse_args(["--help" if arg == "--help-all" else arg for arg in given])
    name = str(parsed.subcommand)
    command, run = _COMMANDS[name]
    values = {option: value for option, value in vars(parsed[name]).items() if option != "config"}
    with _terminated_like_interrupted() as terminated:
        try:
            said = run(command.options(**values))
        except (L0BayesError, ValueError, OSError) as error:
            print(f"l0bayes: {error}", file=sys.stderr)  # noqa: T201
            return 1
        except KeyboardInterrupt as interrupt:
            print(f"\nl0bayes: {interrupt or 'stopped'}", file=sys.stderr)  # noqa: T201
            return _TERMINATED if terminated else _INTERRUPTED
    if said:
        print(said)  # noqa: T201
    return 0


def _version() -> str:
    try:
        return version("l0bayes")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"


@contextmanager
def _terminated_like_interrupted() -> Iterator[list[int]]:
    """Within it SIGTERM, which batch systems send before they end a job, is what Ctrl-C is; gives those received."""
    received: list[int] = []

    def interrupt(number: int, _frame: Any) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
