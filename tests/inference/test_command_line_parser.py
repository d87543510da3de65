"""What can be typed: groups, a help that is short first, near names, lists without brackets, versions."""

import re
import signal
import threading
from dataclasses import fields
from importlib.metadata import version

import pytest

from l0bayes.inference import cli
from l0bayes.inference.cli import main
from l0bayes.inference.command_line.option_groups import COMMON, GROUPS
from l0bayes.inference.command_line.parser import normalised
from l0bayes.inference.command_line.train_options import TrainOptions

COMMANDS = ("train", "evaluate", "report", "export", "select")


def said(args, capsys, status=0):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == status
    captured = capsys.readouterr()
    return captured.out if status == 0 else captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_one_group(command):
    (listed, _) = cli._COMMANDS[command]
    names = [name for group in GROUPS[command].values() for name in group]
    assert sorted(names) == sorted(field.name for field in fields(listed.options))


def test_what_is_common_is_known():
    assert {field.name for field in fields(TrainOptions)} > COMMON


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("how", ["--help", "--help-all"])
def test_help_is_plain_text_of_80_columns(command, how, capsys):
    text = said([command, how], capsys)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"``|:\w+:`", text)
    assert text.startswith(f"usage: l0bayes {command}")
    for title in GROUPS[command] if how == "--help-all" else list(GROUPS[command])[:1]:
        assert f"\n{title}:\n" in text


def test_the_help_of_training_is_short_first(capsys):
    short, full = (said(["train", how], capsys) for how in ("--help", "--help-all"))
    assert len(short.splitlines()) < 80 < len(full.splitlines())
    assert "--help-all" in short
    for option in fields(TrainOptions):
        name = f"--{option.name.replace('_', '-')} "
        assert name in full
        assert (name in short) == (option.name in COMMON)


def test_commands_are_listed(capsys):
    text = said(["--help"], capsys)
    assert all(f"\n    {command} " in text for command in COMMANDS)


def test_the_version(capsys):
    assert said(["--version"], capsys).split() == ["l0bayes", version("l0bayes")]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["train", "--epoch", "3"], "did you mean --epochs?"),
        (["train", "--target-parameter=0.1"], "did you mean --target-parameters?"),
        (["train", "--xyz", "3"], "l0bayes train --help-all lists them"),
        (["evaluate", "x", "--networks", "dense"], "did you mean --network?"),
        (["trian"], "did you mean train?"),
        (["nothing-like-it"], "there are train, evaluate"),
    ],
)
def test_the_near_name_is_suggested(args, hint, capsys):
    assert hint in said(args, capsys, 2)


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        (["--hidden", "300,100"], ["--hidden", "[300, 100]"]),
        (["--hidden=300,100"], ["--hidden=[300, 100]"]),
        (["--hidden", "[300,100]"], ["--hidden", "[300,100]"]),
        (["--drop", "id,no"], ["--drop", '["id", "no"]']),
        (["--drop", "id"], ["--drop", '["id"]']),
        (["--inclusion", "0.3"], ["--inclusion", "0.3"]),
        (["--inclusion", "1,9"], ["--inclusion", "[1, 9]"]),
        (["--data_dir=a_b"], ["--data-dir=a_b"]),
        (["--code_cost", "-0.1"], ["--code-cost", "-0.1"]),
        (["--print_config"], ["--print_config"]),
    ],
)
def test_spellings(typed, taken):
    assert normalised(["train", *typed]) == ["train", *taken]


def test_a_configuration_that_is_printed_has_everything_and_can_be_read(tmp_path, capsys):
    text = said(["train", "--hidden", "16,8", "--gate-lr", "0.5", "--print_config"], capsys)
    assert {line.partition(":")[0] for line in text.splitlines()} >= {field.name for field in fields(TrainOptions)}
    config = tmp_path / "config.yaml"
    config.write_text(text)
    assert said(["train", "--config", str(config), "--print_config"], capsys) == text


def test_one_number_is_a_list_where_lists_are_meant(capsys):
    assert "hidden:\n- 16\n" in said(["train", "--hidden", "16", "--print_config"], capsys)


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_sigterm_is_treated_like_ctrl_c(sent, status, tmp_path, monkeypatch, capsys):
    """Both let the step in progress end, and write down where the run is."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sending = threading.Event()

        def batches(job, split, *args, **options):
            if options.get("shuffle") and not sending.is_set():
                sending.set()
                return Sends(original(job, split, *args, **options), sent)
            return original(job, split, *args, **options)

        original = cli.train.__globals__["Job"].batches
        monkeypatch.setattr(cli.train.__globals__["Job"], "batches", batches)
        args = ["train", "--hidden", "4", "--epochs", "3", "--progress", "false", "--out", str(tmp_path)]
        assert main(args) == status
        assert "the same call with it resumes there" in capsys.readouterr().err
        assert (tmp_path / "dense.checkpoint").is_file()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


class Sends:
    """A loader that sends this process a signal with its third batch."""

    def __init__(self, batches, number):
        self.batches = self.sampler = batches
        self.number = number
        self.count = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.count += 1
            if self.count == 3:
                signal.raise_signal(self.number)
            yield batch
