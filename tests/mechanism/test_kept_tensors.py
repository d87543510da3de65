"""Tensors that networks keep from call to call, and parameters of several names."""

import pytest
import torch
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.inference import HardConcreteGuide, load, save, shrink
from l0bayes.models import Classifier

X = torch.linspace(-2, 2, 48).reshape(8, 6)


class Keeping(nn.Module):
    """Keeps its last output, a moving mean that it assigns anew, and scales that no state_dict has."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 3)
        self.register_buffer("mean", torch.zeros(10))
        self.register_buffer("scale", torch.linspace(1, 2, 10), persistent=False)

    def forward(self, x):
        h = self.fc1(x) * self.scale
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * h.detach().mean(0)
        self.last = h.relu()
        return self.fc2(self.last - self.mean)


def half_closed(net, closed=range(0, 10, 2)):
    model = Classifier(sparsify(net, X, gates={"fc1": "unit"}), num_data=8)
    guide = HardConcreteGuide(model)
    with torch.no_grad():
        guide.parameter("log_alpha.fc1.unit").fill_(20.0)
        guide.parameter("log_alpha.fc1.unit")[list(closed)] = -20.0
    return model, guide


def test_a_kept_output_does_not_stop_compact():
    model, guide = half_closed(Keeping())
    model.train()
    model.net(X).sum().backward()
    assert not model.net.net.last.is_leaf
    small = compact(model, guide)
    assert small.fc1.out_features == 5


def test_a_buffer_that_is_assigned_anew_is_written_back():
    torch.manual_seed(0)
    net = Keeping()
    model, guide = half_closed(net)
    gates = guide.point()
    expected = 0.5 * (net.fc1(X) * net.scale).mean(0) * (gates["fc1.unit"] != 0)
    model.train()
    model.net.run(gates, X)
    torch.testing.assert_close(net.mean, expected.detach())


@pytest.mark.parametrize("shrunk", [False, True])
def test_narrowed_buffers_that_no_state_had_are_saved(tmp_path, shrunk):
    model, guide = half_closed(Keeping())
    if shrunk:
        shrink(model, guide)
        assert "scale" in model.net.net.state_dict()
    small = compact(model, guide)
    again = load(save(small, tmp_path / "small.safetensors"), Keeping())
    assert torch.equal(again.scale, small.scale)
    assert torch.equal(again(X), small(X))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc0, self.fc1, self.fc2, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.fc2.weight = self.fc1.weight

    def forward(self, x):
        return self.out(self.fc2(self.fc1(self.fc0(x).relu()).relu()))


def test_tied_parameters_stay_one_when_they_stay_alike(tmp_path):
    model = Classifier(sparsify(Tied(), X, gates={"out": "weight"}), num_data=8)
    small = compact(model, HardConcreteGuide(model))
    assert small.fc2.weight is small.fc1.weight
    again = load(save(small, tmp_path / "small.safetensors"), Tied())
    assert again.fc2.weight is again.fc1.weight
    assert torch.equal(again(X), small(X))


@pytest.mark.parametrize("granularity", ["weight", "input"])
def test_weights_of_two_names_have_no_gates_of_their_own(granularity):
    dense = sparsify(Tied(), X, gates=granularity).structure.dense
    assert "is shared with 'fc2.weight'" in dense["fc1"]
