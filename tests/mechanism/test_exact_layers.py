"""Every kind of convolution and of norm: the subnetwork and the compacted network give the masked network's numbers."""

import copy
import itertools

import pytest
import torch
from exact_examples import Excited
from subnetwork_oracle import assert_same, assert_same_step, library, masked, random_gates, subnetwork
from torch import nn

from l0bayes import sparsify
from l0bayes.subnetwork.compacted import compact_network

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
SIZES = {1: 12, 2: 8, 3: 6}
INSTANCE_WARNING = "ignore:input's size at dim=1 does not match num_features:UserWarning"


def _between(*layers):
    """Layers from 6 channels to 6 or 12, behind a convolution and before one."""

    def build(dims):
        made = [layer(dims) if not isinstance(layer, nn.Module) else copy.deepcopy(layer) for layer in layers]
        width = next((m.out_channels for m in reversed(made) if hasattr(m, "out_channels")), 6)
        return nn.Sequential(
            CONV[dims](2, 6, 3, padding=1), nn.ReLU(), *made, nn.Tanh(), CONV[dims](width, 2, 1)
        ).double()

    return build


def _conv(out=6, kernel=3, **options):
    return lambda dims: CONV[dims](6, out, kernel, **options)


def _transposed(out=6, kernel=3, **options):
    return lambda dims: TRANSPOSED[dims](6, out, kernel, **options)


# Kind to network and sizes of its groups.
LAYERS = {
    "plain": (_between(_conv()), [6, 6]),
    "without bias": (_between(_conv(bias=False)), [6, 6]),
    "1x1": (_between(_conv(kernel=1)), [6, 6]),
    "strided": (_between(_conv(stride=2)), [6, 6]),
    "dilated": (_between(_conv(dilation=2, padding=2)), [6, 6]),
    "padded to the same": (_between(_conv(padding="same")), [6, 6]),
    "circular": (_between(_conv(padding=1, padding_mode="circular")), [6, 6]),
    "reflecting": (_between(_conv(padding=2, padding_mode="reflect")), [6, 6]),
    "replicating": (_between(_conv(padding=1, padding_mode="replicate")), [6, 6]),
    "grouped": (_between(_conv(out=12, groups=3)), [3]),
    "grouped and circular": (_between(_conv(groups=2, padding=1, padding_mode="circular")), [2]),
    "depthwise": (_between(_conv(groups=6, padding=1)), [6]),
    "depthwise multiplied": (_between(_conv(out=12, groups=6, stride=2, bias=False)), [6]),
    "depthwise separable": (_between(_conv(groups=6), lambda dims: BATCH[dims](6), _conv(kernel=1)), [6, 6]),
    "transposed": (_between(_transposed()), [6, 6]),
    "transposed and strided": (_between(_transposed(stride=2, padding=1, output_padding=1, bias=False)), [6, 6]),
    "transposed and dilated": (_between(_transposed(dilation=2)), [6, 6]),
    "transposed and grouped": (_between(_transposed(out=12, groups=3, stride=2)), [3]),
    "transposed depthwise": (_between(_transposed(groups=6)), [6]),
    "batch norm": (_between(lambda dims: BATCH[dims](6)), [6]),
    "batch norm before": (_between(lambda dims: BATCH[dims](6), _conv(), lambda dims: BATCH[dims](6)), [6, 6]),
    "group norm": (_between(nn.GroupNorm(3, 6)), [3]),
    "group norm of each": (_between(nn.GroupNorm(6, 6), _conv()), [6, 6]),
    "instance norm": (_between(lambda dims: INSTANCE[dims](6)), [6]),
    "instance norm with scale": (_between(lambda dims: INSTANCE[dims](6, affine=True)), [6]),
    "prelu of each": (_between(nn.PReLU(6)), [6]),
}


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


@pytest.mark.filterwarnings(INSTANCE_WARNING)
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", LAYERS)
def test_training_steps_and_compacted_networks_are_exact(kind, dims):
    build, sizes = LAYERS[kind]
    net, x = build(dims), torch.randn(3, 2, *[SIZES[dims]] * dims)
    sparse = sparsify(net, x[:2])
    assert [group.size for group in sparse.groups] == sizes
    for noise, (training, state) in enumerate(itertools.product((True, False), (8.0, -1.6, -40.0))):
        net.train(training)
        log_alphas = {group.name: torch.full((group.size,), state, requires_grad=True) for group in sparse.groups}
        assert_same_step(sparse, (x,), log_alphas, noise)
    for share_open in (0.0, 0.4, 0.7, 1.0):
        gates = random_gates(sparse, share_open)
        assert_same(compact_network(net, sparse.groups, gates)(x), masked(sparse, gates, x))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_select_their_inputs(dims):
    net = nn.Sequential(CONV[dims](4, 6, 3), nn.ReLU(), CONV[dims](6, 2, 1))
    x = torch.randn(3, 4, *[SIZES[dims]] * dims)
    sparse = sparsify(net, x, gates="input")
    assert [(group.size, group.selects) for group in sparse.groups] == [(4, "0"), (6, None)]
    for noise, state in enumerate((8.0, -1.6, -40.0)):
        log_alphas = {group.name: torch.full((group.size,), state, requires_grad=True) for group in sparse.groups}
        assert_same_step(sparse, (x,), log_alphas, noise)
        gates = random_gates(sparse)
        assert_same(compact_network(net, sparse.groups, gates)(x), masked(sparse, gates, x))


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_linear_layers_read_features_of_any_number_of_dimensions(shape):
    net = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, 2))
    x = torch.randn(3, *shape)
    for gates in ("unit", "input"):
        sparse = sparsify(net, x, gates=gates)
        log_alphas = {group.name: torch.full((group.size,), -1.6, requires_grad=True) for group in sparse.groups}
        for noise in range(3):
            assert_same_step(sparse, (x,), log_alphas, noise)


MIXED = {
    "pooling and upsampling": nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(6, 5, 1)),
        *(nn.AvgPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(5, 4, 1)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)),
    ),
    "pixel shuffle": nn.Sequential(nn.Conv2d(2, 12, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(3, 2, 1)),
    "gated linear unit": nn.Sequential(nn.Conv2d(2, 12, 3), nn.GLU(1), nn.Conv2d(6, 2, 1)),
    "in place": nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)),
}


@pytest.mark.parametrize(("kind", "sizes"), [*zip(MIXED, ([6, 5, 4], [3], [6], [6]), strict=True)])
def test_layers_between_convolutions_are_exact(kind, sizes):
    net, x = copy.deepcopy(MIXED[kind]).double(), torch.randn(3, 2, 8, 8)
    sparse = sparsify(net, x)
    assert [group.size for group in sparse.groups] == sizes
    for noise, state in enumerate((8.0, -1.6, -1.6, -40.0)):
        log_alphas = {group.name: torch.full((group.size,), state, requires_grad=True) for group in sparse.groups}
        assert_same_step(sparse, (x,), log_alphas, noise)


class Joined(nn.Module):
    """A convolution reads the units of two others, one of which another one reads too."""

    def __init__(self, *, both_read):
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.both, self.last = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)
        self.other = nn.Conv2d(3, 2, 1) if both_read else None

    def forward(self, x):
        right = self.right(x).relu()
        joined = torch.cat([self.left(x).relu(), right], 1)
        output = self.last(self.both(joined).relu())
        return output if self.other is None else output + self.other(right)


@pytest.mark.parametrize("both_read", [True, False])
def test_units_and_inputs_of_a_convolution_may_overlap(both_read):
    net, x = Joined(both_read=both_read).eval(), torch.randn(3, 2, 4, 4)
    sparse = sparsify(net, x, gates={"left": "unit", "both": "input"})
    assert [group.size for group in sparse.groups] == [3, 6]
    patterns = itertools.product(range(8), (0, 1, 4, 7, 8, 32, 44, 63))
    for left, both in patterns:
        gates = {
            "left.unit": 0.7 * (torch.tensor(left) >> torch.arange(3) & 1),
            "both.input": 0.9 * (torch.tensor(both) >> torch.arange(6) & 1),
        }
        expected = masked(sparse, gates, x)
        for run in (subnetwork, library):
            assert_same(run(sparse, gates, x), expected)
        assert_same(compact_network(net, sparse.groups, gates)(x), expected)


def test_one_channel_and_one_open_gate_are_not_broadcast():
    net, x = Excited().eval(), torch.randn(1, 2, 7, 7)
    sparse = sparsify(net, torch.randn(2, 2, 7, 7))
    for unit in range(8):
        gates = {"conv1.unit": torch.eye(8)[unit], "squeeze.unit": torch.eye(4)[unit % 4]}
        assert_same(subnetwork(sparse, gates, x), masked(sparse, gates, x))


class Projected(nn.Module):
    """Features are read by a matrix that is a buffer, and by layers that are called by keyword."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 5), nn.Linear(4, 3), nn.Linear(3, 2)
        self.register_buffer("fixed", torch.randn(5, 4))

    def forward(self, x):
        x = (self.fc1(input=x).relu() @ self.fixed).tanh()
        return self.fc3(input=self.fc2(input=x).relu())


@pytest.mark.parametrize("gates", ["unit", "input"])
def test_a_fixed_projection_and_layers_called_by_keyword_are_exact(gates):
    net, x = Projected(), torch.randn(7, 6)
    sparse = sparsify(net, x, gates=gates)
    sizes = {group.name: group.size for group in sparse.groups}
    assert sizes.items() >= ({"fc2.unit": 3} if gates == "unit" else {"fc1.input": 6, "fc3.input": 3}).items()
    for noise, state in enumerate((8.0, -1.6, -1.6, -40.0)):
        log_alphas = {group.name: torch.full((group.size,), state, requires_grad=True) for group in sparse.groups}
        assert_same_step(sparse, (x,), log_alphas, noise)


def test_an_embedding_with_sparse_gradients_can_be_trained():
    net = nn.Sequential(nn.Embedding(11, 6, sparse=True), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randint(0, 11, (7,))
    sparse = sparsify(net, x)
    gates = random_gates(sparse)
    masked(sparse, gates, x).sum().backward()
    expected = net[0].weight.grad.to_dense()
    net.zero_grad()
    subnetwork(sparse, gates, x).sum().backward()
    assert_same(net[0].weight.grad.to_dense(), expected)
