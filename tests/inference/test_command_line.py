"""The command line: what a run leaves behind, and that the numbers in it are true."""

import json
import math

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from l0bayes import gate_table, sparsify
from l0bayes.inference import HardConcreteGuide, load, predict
from l0bayes.inference.cli import main
from l0bayes.inference.command_line.train import layer_sizes
from l0bayes.inference.data.datasets import load_data
from l0bayes.inference.storage.files import read_tensors
from l0bayes.models import MLP, Classifier

HIDDEN = (16, 8)
SMALL = ["train", "--data", "digits", "--hidden", "[16,8]", "--progress", "false"]
# Rates so high that some gates close, and some open, within two epochs.
OPTIONS = ["--epochs", "2", "--init_open", "0.7", "--gate_lr", "0.05", "--lr", "0.01"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of one finished run."""
    out = tmp_path_factory.mktemp("train")
    assert main([*SMALL, *OPTIONS, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def summary(out):
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def small(out):
    return load(out / "compacted.safetensors", MLP(64, *HIDDEN, 10))


def test_files(out):
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.{kind}" for name in ("compacted", "dense", "model", "guide") for kind in ("safetensors", "json")),
        *("gates.csv", "gates.png", "history.csv", "dense_history.csv", "training.png", "summary.json"),
        *("dense.checkpoint", "gated.checkpoint", "options.json"),
    }


def test_error_of_the_compacted_network(small, summary):
    test = load_data("digits").test
    error = (small(test.x).argmax(-1) != test.y).double().mean().item()
    assert summary["test_error"]["compacted"] == pytest.approx(error)
    assert summary["test_error"]["gated"] == pytest.approx(error)
    assert 0 <= summary["test_error"]["dense"] < 0.9


def test_model_and_guide_can_be_loaded(out, small):
    test = load_data("digits").test
    model = Classifier(sparsify(MLP(64, *HIDDEN, 10), test.x[:2], gates="input"), num_data=100)
    guide = HardConcreteGuide(model)
    load(out / "model.safetensors", model)
    load(out / "guide.safetensors", guide)
    torch.testing.assert_close(predict(model, guide, test.x), small(test.x), atol=1e-5, rtol=1e-4)


def test_dense_network_can_be_loaded(out, summary):
    test = load_data("digits").test
    dense = load(out / "dense.safetensors", MLP(64, *HIDDEN, 10))
    error = (dense(test.x).argmax(-1) != test.y).double().mean().item()
    assert summary["test_error"]["dense"] == pytest.approx(error)


def test_gates_layer_by_layer_and_no_dense_network(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: digits\nhidden: [8, 6]\nepochs: 1\nprogress: false\ncompare: false\n"
        "gates:\n  fc1: {gates: input, init_open: 0.4}\n  fc3: input\ngate_lr: 1.0e-9\n"
    )
    assert main(["train", "--config", str(config), "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "gates.csv")
    starts = table.groupby("site").p_nonzero.mean()
    assert {site.rsplit(".", 2)[-2]: round(p, 3) for site, p in starts.items()} == {"fc1": 0.4, "fc3": 0.8}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["test_error"]) == {"gated", "compacted"}
    assert not (tmp_path / "dense.checkpoint").exists()


def test_parameters_and_macs(small, summary):
    linear = [layer for layer in small.modules() if isinstance(layer, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in linear)
    biases = sum(layer.bias.numel() for layer in linear)
    assert summary["parameters"]["after"] == weights + biases
    assert summary["macs"]["after"] == weights
    assert summary["macs"]["before"] == 64 * 16 + 16 * 8 + 8 * 10
    assert summary["parameters"]["before"] == 64 * 16 + 16 * 8 + 8 * 10 + 16 + 8 + 10
    assert summary["parameters"]["after"] < summary["parameters"]["before"]


def test_architecture(out, small, summary):
    gates = pd.read_csv(out / "gates.csv")
    kept = gates.groupby("site", sort=False)["open"].sum().tolist()
    assert summary["architecture"] == {"before": "64-16-8-10", "after": "-".join(map(str, [*kept, 10]))}
    assert layer_sizes(small) == summary["architecture"]["after"]


def test_speed_is_a_ratio(summary):
    assert summary["forward_time_ratio"].keys() == {"batch_1", "batch_1024"}
    assert all(0.01 < ratio < 100 for ratio in summary["forward_time_ratio"].values())


def test_options_and_versions_are_on_record(out, summary):
    assert summary["options"] | {"epochs": 2, "seed": 0, "out": str(out), "hidden": [16, 8]} == summary["options"]
    assert summary["versions"]["torch"] == torch.__version__
    for name in ("compacted", "guide"):
        found = json.loads((out / f"{name}.json").read_text())["provenance"]
        places = {place: summary["options"][place] for place in ("data_dir", "out")}
        assert not places.keys() & found["options"].keys()
        assert found | {"options": found["options"] | places} == summary
        assert str(out) not in (out / f"{name}.json").read_text()


def test_guide_and_table_and_network_belong_together(out, small):
    tensors, _ = read_tensors(out / "gated.checkpoint", "checkpoint")
    data = load_data("digits")
    sparse = sparsify(MLP(64, *HIDDEN, 10), data.train.x[:2], gates="input")
    model = Classifier(sparse, num_data=len(data.train))
    model.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model/")})
    guide = load(out / "guide.safetensors", HardConcreteGuide(model))
    x = data.test.x[:50]
    torch.testing.assert_close(predict(model, guide, x), small(x), rtol=1e-5, atol=1e-5)
    pd.testing.assert_frame_equal(pd.read_csv(out / "gates.csv"), gate_table(guide), check_dtype=False)


def test_history(out):
    history = pd.read_csv(out / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert {"elbo", "expected_l0", "open_gates", "validation_error"} <= set(history.columns)
    assert history["elbo"].map(math.isfinite).all()
    assert history["open_gates"].iloc[-1] == pd.read_csv(out / "gates.csv")["open"].sum()


@pytest.mark.parametrize("name", ["gates.png", "training.png"])
def test_pictures(out, name):
    with Image.open(out / name) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 50


def test_the_same_command_again_only_reports(out, summary, capsys):
    contents = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main([*SMALL, *OPTIONS, "--out", str(out)]) == 0
    assert f"architecture  64-16-8-10 → {summary['architecture']['after']}" in capsys.readouterr().out
    for name in ("gates.csv", "history.csv", "gated.checkpoint", "dense.checkpoint"):
        assert (out / name).read_bytes() == contents[name]


@pytest.mark.parametrize("sizes", [(4, 2), (784, 300, 100, 10)])
def test_layer_sizes(sizes):
    assert layer_sizes(MLP(*sizes)) == "-".join(map(str, sizes))
