"""The command line: ``l0bayes train``."""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from l0bayes.errors import L0BayesError
from l0bayes.inference.command_line.report import summary_lines
from l0bayes.inference.command_line.train import train
from l0bayes.inference.command_line.train_options import TrainOptions


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: arguments; those of the process if ``None``.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C.
    """
    parser = ArgumentParser(prog="l0bayes", description="Spike-and-slab networks: smaller, faster, and honest.")
    commands = parser.add_subcommands()
    job = ArgumentParser(description="Train a spike-and-slab network on images, compact it, and report.")
    job.add_argument("--config", action="config", help="a YAML file with the options below")
    job.add_class_arguments(TrainOptions)
    commands.add_subcommand("train", job)
    parsed = parser.parse_args([_underscored(arg) for arg in (sys.argv[1:] if args is None else args)])
    values = {name: value for name, value in vars(parsed.train).items() if name != "config"}
    try:
        summary = train(TrainOptions(**values))
    except (L0BayesError, ValueError, OSError) as error:
        print(f"l0bayes: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\nl0bayes: {interrupt or 'stopped'}", file=sys.stderr)  # noqa: T201
        return 130
    if summary:
        print(summary_lines(summary, values["out"]))  # noqa: T201
    return 0


def _underscored(arg: str) -> str:
    """``--data-dir=x`` as ``--data_dir=x``: options may be spelled either way."""
    if not arg.startswith("--"):
        return arg
    name, equals, value = arg[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


if __name__ == "__main__":
    sys.exit(main())
