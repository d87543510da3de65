"""Networks that used to end in a crash: sparse buffers, several rows needed, buffers in products, fused encoders."""

import pytest
import torch
import torchvision
from awkward_nets import Network, compacted, exactly_gated, sizes
from subnetwork_oracle import assert_same, masked, random_gates, subnetwork
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide, load, predict, save
from l0bayes.subnetwork.compacted import compact_network


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def graph(layout):
    """Two layers of a graph network over five nodes, whose neighbours a buffer holds."""
    neighbours = torch.eye(5) + torch.eye(5).roll(1, 0)
    return Network(
        lambda s, x: s.fc2(s.edges @ s.fc1(s.edges @ x).relu()),
        fc1=nn.Linear(6, 4),
        fc2=nn.Linear(4, 2),
        edges=neighbours.to_sparse() if layout == "sparse" else neighbours,
    )


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("gates", ["unit", "input", "weight"])
def test_graphs_in_buffers(layout, gates):
    x = torch.randn(5, 6)
    if (layout, gates) == ("dense", "unit"):  # one weight for inputs and features, as far as can be told
        with pytest.raises(StructureError, match="edges: what multiplies features there is a buffer; fc1: it is tied"):
            sparsify(graph(layout), x, gates=gates)
        return
    sparse = sparsify(graph(layout), x, gates=gates)
    assert {"unit": "fc1.unit", "input": "fc1.input", "weight": "fc1.weight"}[gates] in sizes(sparse)
    for _ in range(3):
        values = random_gates(sparse)
        for run in (subnetwork, compacted):
            assert_same(run(sparse, values, x), masked(sparse, values, x))


class Asserting(nn.Module):
    def forward(self, x):
        if len(x) < 2:
            raise ValueError("two rows at least")
        return x


NEEDY = {
    "asserting": lambda: nn.Sequential(Asserting(), nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 3)),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(2, 5, 5),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 2),
    ),
}


@pytest.mark.parametrize("name", NEEDY)
def test_networks_that_need_several_rows(name):
    sparse = exactly_gated(NEEDY[name](), torch.randn(4, 2, 5, 5))
    assert f"{1 if name == 'asserting' else 0}.unit" in sizes(sparse)


@pytest.mark.parametrize("rows", [1, 4])
def test_training_mode_is_tried_though_batch_norm_needs_several_rows(rows):
    net = Network(
        lambda s, x: s.fc2(s.norm(s.fc1(x)).relu()) * (s.fc1(x).shape[1] if s.training else 1),
        fc1=nn.Linear(6, 5),
        norm=nn.BatchNorm1d(5),
        fc2=nn.Linear(5, 4),
        fc3=nn.Linear(6, 5),
        fc4=nn.Linear(5, 2),
    )
    outer = Network(
        lambda s, x: torch.cat((s.inner(x), s.fc4(s.fc3(x).relu())), 1), inner=net, fc3=net.fc3, fc4=net.fc4
    )
    sparse = sparsify(outer, torch.randn(rows, 6))
    assert [group.name for group in sparse.groups if "fc1" in group.name and not group.padded] == []


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_inputs_of_an_encoder_once_compacted(padded, training):
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=padded)
    x = torch.randn(3, 5, 8)
    mask = torch.arange(5) >= torch.tensor([5, 3, 4])[:, None] if padded else None
    sparse = sparsify(net, x, gates="input")
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.copy_(torch.linspace(-5.0, 5.0, len(parameter)))
    small = compact(sparse, guide).train(training)
    sparse.train(training)
    with torch.no_grad():
        wanted = (
            masked(sparse, guide.point(), x)
            if mask is None
            else sparse.run(guide.point(), x, src_key_padding_mask=mask)
        )
        found = small(x) if mask is None else small(x, src_key_padding_mask=mask)
        keep = slice(None) if mask is None else ~mask
        assert_same(found[keep], wanted[keep])
        if mask is None and not training:
            assert_same(predict(sparse, guide, x), found)


@pytest.mark.parametrize("gated", [False, True])
def test_states_with_versions_are_loaded_as_what_they_are(tmp_path, gated):
    torch.manual_seed(2)
    x = torch.randn(2, 3, 48, 48)
    net = torchvision.models.mnasnet0_5(weights=None).eval()
    saved = net
    if gated:
        sparse = sparsify(net, x, gates={"layers.0": "unit", "layers.3": "unit"})
        saved = compact_network(net, sparse.groups, random_gates(sparse)).eval()
    save(saved, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors", torchvision.models.mnasnet0_5(weights=None))
    assert_same(loaded(x), saved(x))
