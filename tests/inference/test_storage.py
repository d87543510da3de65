"""Finished networks and guides on their way through a file."""

import json

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from saved_networks import SIZES, gated, small_network
from torch import nn

from l0bayes import HardConcrete, compact, gate_table, sparsify
from l0bayes.errors import FileFormatError
from l0bayes.inference import HardConcreteGuide, load, predict, save
from l0bayes.layers.select_inputs import SelectLinear
from l0bayes.models import MLP

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
GATES = pytest.mark.parametrize("gates", ["input", "unit", {"fc2": "input"}], ids=str)


@GATES
def test_a_compacted_network_into_a_new_one(gates, tmp_path):
    small = small_network(gates=gates)
    path = save(small, tmp_path / "small.safetensors")
    loaded = load(path, MLP(*SIZES))
    x = torch.randn(20, SIZES[0])
    assert torch.equal(loaded(x), small(x))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in small.parameters())
    assert [type(layer) for layer in loaded.children()] == [type(layer) for layer in small.children()]


def test_the_selection_of_inputs_is_stored(tmp_path):
    small = small_network(gates="input")
    assert isinstance(small.fc1, SelectLinear)
    loaded = load(save(small, tmp_path / "small"), MLP(*SIZES))
    assert torch.equal(loaded.fc1.index, small.fc1.index)
    assert loaded.fc1.in_features == len(small.fc1.index) < SIZES[0]


def test_a_layer_that_one_closed_unit_reaches(tmp_path):
    model, guide = gated()
    with torch.no_grad():
        guide.parameter("log_alpha.fc2.input").fill_(-20.0)
    small = compact(model, guide)
    loaded = load(save(small, tmp_path / "small"), MLP(*SIZES))
    x = torch.randn(3, SIZES[0])
    assert loaded.fc2.in_features == small.fc2.in_features == 1  # no layer vanishes
    assert torch.equal(loaded(x), small(x))


def test_an_ordinary_network(tmp_path):
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    net(torch.randn(10, 5))  # running statistics other than the new network's
    fresh = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    loaded = load(save(net, tmp_path / "net"), fresh)
    x = torch.randn(7, 5)
    assert loaded is fresh
    assert torch.equal(loaded(x), net.eval()(x))


def test_a_loaded_network_is_in_evaluation_mode_and_can_be_trained(tmp_path):
    loaded = load(save(small_network(), tmp_path / "small"), MLP(*SIZES).train())
    assert not any(module.training for module in loaded.modules())
    loaded(torch.randn(2, SIZES[0])).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in loaded.parameters())


@DTYPES
def test_another_precision_comes_back_as_it_was(dtype, tmp_path):
    small = small_network().to(dtype)
    loaded = load(save(small, tmp_path / "small"), MLP(*SIZES).to(dtype))
    x = torch.randn(4, SIZES[0], dtype=dtype)
    assert torch.equal(loaded(x), small(x))


@DTYPES
def test_nothing_is_rounded_without_a_word(dtype, tmp_path):
    path = save(small_network().to(dtype), tmp_path / "small")
    with pytest.raises(FileFormatError, match=f"{dtype}.*torch.float32"):
        load(path, MLP(*SIZES))


@GATES
def test_a_guide_into_a_new_one_of_a_new_model(gates, tmp_path):
    model, guide = gated(gates=gates)
    path = save(guide, tmp_path / "guide.safetensors")
    new_model, new_guide = gated(seed=1, gates=gates)
    loaded = load(path, new_guide)
    assert loaded is new_guide
    assert gate_table(loaded).equals(gate_table(guide))
    new_model.load_state_dict(model.state_dict())
    x = torch.randn(5, SIZES[0])
    assert torch.equal(predict(new_model, loaded, x), predict(model, guide, x))


def test_a_guide_that_has_not_seen_data(tmp_path):
    """Its parameters come from the file, its sites from the first batch."""

    def model(x):
        pyro.sample("z", HardConcrete(torch.zeros(x.shape[1])).to_event(1))

    x = torch.zeros(3, 4)
    guide = HardConcreteGuide(model, args=(x,), init_open=0.3)
    loaded = load(save(guide, tmp_path / "guide"), HardConcreteGuide(model))
    loaded(x)
    assert gate_table(loaded).equals(gate_table(guide))


def test_a_guide_of_pyros(tmp_path):
    def model():
        pyro.sample("w", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))

    guide, fresh = AutoNormal(model), AutoNormal(model)
    guide()
    fresh()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.normal_()
    load(save(guide, tmp_path / "guide"), fresh)
    for name, value in guide.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value)


def test_the_facts_stand_beside_the_file_for_people_to_read(tmp_path):
    small = small_network()
    path = save(small, tmp_path / "small.safetensors", provenance={"seed": 3, "error": 0.02})
    facts = json.loads((tmp_path / "small.json").read_text())
    assert path == tmp_path / "small.safetensors"
    assert (facts["kind"], facts["class"]) == ("network", "MLP")
    shapes = {name: list(tensor.shape) for name, tensor in small.state_dict().items()}
    assert facts["shapes"] == shapes | {"fc1.given_features": []}
    assert facts["versions"] == {"torch": torch.__version__, "pyro": pyro.__version__}
    assert facts["provenance"] == {"seed": 3, "error": 0.02}


def test_the_file_is_enough_without_the_facts_beside_it(tmp_path):
    small = small_network()
    path = save(small, tmp_path / "small.safetensors")
    (tmp_path / "small.json").unlink()
    x = torch.randn(2, SIZES[0])
    assert torch.equal(load(str(path), MLP(*SIZES))(x), small(x))


def test_the_facts_do_not_overwrite_the_network(tmp_path):
    with pytest.raises(ValueError, match=r"small\.json"):
        save(small_network(), tmp_path / "small.json")
    assert list(tmp_path.iterdir()) == []


def test_saving_changes_nothing(tmp_path):
    small = small_network().train()
    before = {name: value.clone() for name, value in small.state_dict().items()}
    save(small, tmp_path / "small")
    assert small.training
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_a_network_that_is_one_layer_and_selects_its_inputs(tmp_path):
    sparse = sparsify(nn.Linear(12, 5), torch.randn(3, 12), gates="input")
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        next(guide.parameters())[::2] = -20.0
    small = compact(sparse, guide)
    again = load(save(small, tmp_path / "small.safetensors"), nn.Linear(12, 5))
    x = torch.randn(3, 12)
    assert again.in_features == 6
    assert torch.equal(again(x), small(x))
