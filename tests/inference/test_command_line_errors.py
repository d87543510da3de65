"""The command line: configuration, and what it says to mistakes."""

import json
import shutil
import signal
from functools import partial

import pandas as pd
import pytest

from l0bayes.inference import TensorBatches
from l0bayes.inference.cli import main
from l0bayes.inference.command_line import train as train_module
from l0bayes.inference.system import timing

SMALL = ["train", "--data", "digits", "--hidden", "[4]", "--epochs", "1", "--progress", "false"]


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch):
    """How fast the network is matters elsewhere."""
    monkeypatch.setattr(train_module, "interleaved", partial(timing.interleaved, rounds=1, seconds=0))


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    assert main([*SMALL, "--out", str(out)]) == 0
    return out


@pytest.fixture
def finished(one_run, tmp_path):
    """The folder of a finished run, for each test its own."""
    return shutil.copytree(one_run, tmp_path / "finished")


def exits_with_2(args):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2


@pytest.mark.parametrize("args", [["--typo", "1"], ["--data", "cifar"], ["--epochs", "many"], ["--hidden", "[a]"]])
def test_an_option_that_cannot_be_understood(args, tmp_path, capsys):
    exits_with_2([*SMALL, "--out", str(tmp_path), *args])
    assert args[0].strip("-") in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [[], ["fly"]])
def test_an_unknown_command(args, capsys):
    exits_with_2(args)
    assert "train" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("data", "code-cost", "gates", "epochs", "config"))
    assert "nats per parameter" in text


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--code_cost", "-1", "code_cost"),
        ("--inclusion", "2", "inclusion"),
        ("--init_open", "1", "init_open"),
        ("--epochs", "0", "epochs"),
        ("--batch_size", "0", "batch_size"),
        ("--lr", "-1", "lr"),
        ("--gate_lr", "0", "gate_lr"),
        ("--hidden", "[0]", "hidden"),
        ("--device", "nonsense", "device"),
    ],
)
def test_a_value_out_of_range_is_one_line(option, value, name, tmp_path, capsys):
    assert main([*SMALL, "--out", str(tmp_path), option, value]) == 1
    error = capsys.readouterr().err
    assert error.startswith("l0bayes: ")
    assert name in error
    assert error.count("\n") == 1


def test_a_code_cost_is_reported_as_it_was_given(tmp_path, capsys):
    main([*SMALL, "--out", str(tmp_path), "--code_cost", "-0.125"])
    assert "-0.125" in capsys.readouterr().err


def test_missing_data(tmp_path, capsys):
    assert main([*SMALL, "--out", str(tmp_path), "--data", "mnist", "--data_dir", str(tmp_path)]) == 1
    assert "--download true" in capsys.readouterr().err


def test_a_damaged_checkpoint(tmp_path, capsys):
    (tmp_path / "dense.checkpoint").write_bytes(b"garbage")
    assert main([*SMALL, "--out", str(tmp_path)]) == 1
    assert "dense.checkpoint is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--code_cost", "--lr", "--gate_lr", "--batch_size", "--init_open"])
def test_a_mistake_does_not_claim_the_folder(option, tmp_path):
    """What was refused left nothing behind that the corrected command would have to agree with."""
    assert main([*SMALL, "--out", str(tmp_path), option, "-1"]) == 1
    assert main([*SMALL, "--out", str(tmp_path)]) == 0


def test_a_file_in_the_folders_place(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*SMALL, "--out", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "value"),
    [("seed", "7"), ("code_cost", "2.0"), ("lr", "0.1"), ("gate_lr", "0.5"), ("init_open", "0.3"), ("hidden", "[5]")],
)
def test_a_summary_never_claims_options_that_a_resumed_run_did_not_have(option, value, finished, capsys):
    """Whoever changes an option and forgets to change the folder must not read the old result as the new one's."""
    before = (finished / "summary.json").read_text()
    assert main([*SMALL, "--out", str(finished), f"--{option}", value]) == 1
    error = capsys.readouterr().err
    assert option in error
    assert str(finished) in error
    assert (finished / "summary.json").read_text() == before


def test_options_that_an_earlier_version_did_not_know(finished):
    path = finished / "options.json"
    known = json.loads(path.read_text())
    for name in ("compile", "compare"):
        del known[name]
    path.write_text(json.dumps(known))
    assert main([*SMALL, "--out", str(finished), "--compile", "true"]) == 1
    assert main([*SMALL, "--out", str(finished)]) == 0


def test_more_epochs_are_no_other_run(finished):
    assert main([*SMALL, "--out", str(finished), "--epochs", "2"]) == 0
    assert pd.read_csv(finished / "history.csv")["epoch"].tolist() == [1, 2]


def test_a_configuration_file(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("data: digits\nhidden: [6, 5]\nepochs: 1\nprogress: false\nseed: 3\ncode_cost: 0.2\n")
    out = tmp_path / "out"
    assert main(["train", "--config", str(config), "--out", str(out), "--seed", "4"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["architecture"]["before"] == "64-6-5-10"
    assert summary["options"]["code_cost"] == 0.2
    assert summary["options"]["seed"] == 4  # what comes later counts


def test_a_typo_in_a_configuration_file(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("epochs: 1\ncode_costs: 0.2\n")
    exits_with_2(["train", "--config", str(config), "--out", str(tmp_path / "out")])
    assert "code_costs" in capsys.readouterr().err


def test_a_missing_configuration_file(tmp_path, capsys):
    exits_with_2(["train", "--config", str(tmp_path / "nowhere.yaml")])
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:no way leads")  # an epoch or two of four units
def test_ctrl_c_and_the_same_command_again(tmp_path, capsys, monkeypatch):
    """Exit status 130, a line that names the file, and in the end the result of a run left alone."""
    command = [*SMALL, "--epochs", "2"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    iterate, passes = TensorBatches.__iter__, []

    def interrupted(self):
        passes.append(self.shuffle)
        for number, batch in enumerate(iterate(self)):
            if passes.count(True) == 4 and self.shuffle and number == 5:  # the gated network's second epoch
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TensorBatches, "__iter__", interrupted)
        assert main([*command, "--out", str(tmp_path / "parts")]) == 130
    error = capsys.readouterr().err
    assert "stopped after 1 epochs and 6 steps" in error
    assert str(tmp_path / "parts" / "gated.checkpoint") in error
    assert not (tmp_path / "parts" / "summary.json").exists()
    assert main([*command, "--out", str(tmp_path / "parts")]) == 0
    tables = [(tmp_path / run / "gates.csv").read_bytes() for run in ("whole", "parts")]
    assert tables[0] == tables[1]
