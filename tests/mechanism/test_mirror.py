"""Subnetworks run on copies of the modules: the network stays whole meanwhile, and gets what a run leaves behind."""

import copy
import functools
import pickle
import threading
import types

import pytest
import torch
from awkward_nets import four_layers
from pyro.nn import PyroModule
from subnetwork_oracle import assert_same, library, masked, random_gates, subnetwork
from test_exact_training_mode import Everything
from torch import nn

from l0bayes import sparsify

X = torch.linspace(-2, 2, 24, dtype=torch.float64).reshape(4, 6)
RUNS = pytest.mark.parametrize("run", [subnetwork, library])


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def in_another_thread(call):
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def half(sparse):
    """Every other gate closed."""
    return {group.name: torch.arange(group.size) % 2.0 for group in sparse.groups}


# -- threads ----------------------------------------------------------------------------------------------------


class Meanwhile(nn.Module):
    """Does something, once, in the middle of a run."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    def forward(self, x):
        while self.waiting:
            self.waiting.pop()()
        return x


class Interrupted(Everything):
    """Something is done between a grouped convolution, a norm and attention."""

    def __init__(self):
        super().__init__()
        self.meanwhile = Meanwhile()

    def forward(self, x):
        x = self.meanwhile(self.point(self.norm(self.conv2(self.conv1(x).relu())).relu()))
        x = self.meanwhile(self.attention(x.transpose(1, 2)).mean(1))
        return self.fc(x)


@RUNS
@pytest.mark.parametrize("gates", ["unit", {"conv1": "input", "fc": "input", "*": "unit"}])
def test_another_thread_has_the_whole_network_during_a_run(gates, run):
    net, x = Interrupted(), torch.randn(3, 2, 5)
    sparse = sparsify(net, x, gates=gates)
    widths = (net.conv2.groups, net.norm.num_groups, net.attention.self_attn.num_heads)
    whole, wanted, seen = net(x), masked(sparse, half(sparse), x), []

    def look():
        seen.append(in_another_thread(lambda: net(x)))
        found = (net.conv2.groups, net.norm.num_groups, net.attention.self_attn.num_heads)
        assert found == widths
        assert type(net.attention.self_attn) is nn.MultiheadAttention
        assert net.conv1.weight.shape == (8, 2, 3)

    net.meanwhile.waiting.append(look)
    assert_same(run(sparse, half(sparse), x), wanted)
    assert len(seen) == 1
    assert torch.equal(seen[0], whole)


@RUNS
def test_two_threads_run_two_draws_of_one_network(run):
    net, x = Interrupted(), torch.randn(3, 2, 5)
    sparse = sparsify(net, x)
    one, other = half(sparse), {name: 1 - gate for name, gate in half(sparse).items()}
    wanted = [masked(sparse, gates, x) for gates in (one, other)]
    found = []
    net.meanwhile.waiting.append(lambda: found.append(in_another_thread(lambda: run(sparse, other, x))))
    assert_same(run(sparse, one, x), wanted[0])
    assert_same(found[0], wanted[1])


# -- what a run leaves behind -----------------------------------------------------------------------------------


class Leaving(nn.Module):
    """Leaves all that a forward can on itself and on its layers."""

    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.layers, self.outputs, self.told, self.held = [self.fc1], {}, [], types.SimpleNamespace(layer=self.fc1, n=0)
        self.first = True

    def forward(self, x):
        h = self.fc1(x)
        self.calls = self.calls + 1
        self.outputs[self.fc1] = h
        self.told.append(len(x))
        self.fc1.seen = h.shape
        self.last_layer, self.shapes = self.fc2, {"fc1": [self.fc1, h.shape]}
        self.held.n += 1
        if self.first:
            del self.first
            self.first = False
            self.more = nn.Identity()
            self.register_buffer("mean", torch.ones(2))
            self.layers.append(self.fc2)
        return self.fc2(self.norm(h).relu())


@RUNS
def test_what_forward_assigns_is_there_afterwards(run):
    net = Leaving()
    sparse = sparsify(net, X)
    net.train()
    plain = copy.deepcopy(net)
    for number in (1, 2):
        plain(X)
        run(sparse, half(sparse), X)
        assert sorted(vars(net)) == sorted(vars(plain))
        assert list(net.state_dict()) == list(plain.state_dict())
        assert int(net.calls) == int(net.norm.num_batches_tracked) == net.held.n == number
        assert list(net.outputs) == net.layers[:1] == [net.fc1]
        assert net.layers == [net.fc1, net.fc2]
        assert net.told == [4] * number
        assert net.fc1.seen == (4, 2)
        assert net.last_layer is net.fc2
        assert net.shapes["fc1"] == [net.fc1, (4, 2)]
        assert net.held.layer is net.fc1
        assert net.first is False
        assert type(net.more) is nn.Identity
    assert torch.equal(net.norm.running_mean[::2], torch.zeros(3))  # closed: no statistics
    assert net.norm.running_mean[1::2].all()


@RUNS
def test_what_is_left_before_an_error_stays_as_in_any_network(run):
    def fails(net, x):
        net.tried = len(x)
        raise KeyError("the user's own error")

    net = four_layers(lambda s, x: s.fc2(s.fc1(x)))
    sparse = sparsify(net, X)
    net.use = fails
    with pytest.raises(KeyError, match="own error"):
        run(sparse, half(sparse), X)
    assert net.tried == 4
    assert net.fc1.weight.shape == (5, 6)


# -- other ways to a layer --------------------------------------------------------------------------------------


class Holder:
    """An object of the user's own."""

    def __init__(self, layer):
        self.layers = [layer]

    def __call__(self, x):
        return self.layers[0](x)


class Unregistered(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def scaled(scale, layer, x):
    return scale * layer(x)


WAYS = {
    "list": lambda s, x: s.way[0](x),
    "tuples": lambda s, x: s.way[1][0](x),
    "dict": lambda s, x: s.way["fc1"](x),
    "set": lambda s, x: next(iter(s.way))(x),
}


def called(net, x):
    return net.way(x)


KEPT = {
    "list": lambda net: [net.fc1],
    "tuples": lambda net: (1, (net.fc1, 2)),
    "dict": lambda net: {"fc1": net.fc1},
    "set": lambda net: {net.fc1},
    "method": lambda net: net.fc1.forward,
    "partial": lambda net: functools.partial(scaled, 1.0, net.fc1),
    "object": lambda net: Holder(net.fc1),
    "method of an object": lambda net: Holder(net.fc1).__call__,
    "module in no list of modules": lambda net: [Unregistered(net.fc1)][0].forward,
}


@RUNS
@pytest.mark.parametrize("kind", KEPT)
def test_layers_that_are_reached_another_way_have_their_gates(kind, run):
    net = four_layers(lambda s, x: s.fc2(WAYS.get(kind, called)(s, x)))
    net.way = KEPT[kind](net)
    sparse = sparsify(net, X)
    assert "fc1.unit" in {group.name for group in sparse.groups}
    before = net.way
    for _ in range(3):
        gates = random_gates(sparse)
        assert_same(run(sparse, gates, X), masked(sparse, gates, X))
    assert net.way is before


@RUNS
def test_a_forward_of_one_instance_is_its_copys(run):
    net = four_layers(lambda s, x: s.fc2(s.fc1(x)))
    net.fc1.forward = types.MethodType(lambda self, x: nn.functional.linear(x, 2 * self.weight, self.bias), net.fc1)
    sparse = sparsify(net, X)
    gates = random_gates(sparse)
    assert_same(run(sparse, gates, X), masked(sparse, gates, X))


def test_a_layer_behind_what_cannot_be_followed_stays_dense_and_says_why():
    net = four_layers(lambda s, x: s.fc2(s.way(x)))
    net.way = Holder(Holder(net.fc1))  # an object in an object
    dense = sparsify(net, X).structure.dense
    assert "used from elsewhere than its module" in dense["fc1"]


# -- hooks and compiled parts -----------------------------------------------------------------------------------


@RUNS
def test_hooks_are_called_with_the_module_that_runs_and_may_leave_something_on_it(run):
    net = four_layers(lambda s, x: s.fc2(s.fc1(x)))
    sparse = sparsify(net, X)
    shapes = []
    net.fc1.register_forward_pre_hook(lambda module, _args: shapes.append(tuple(module.weight.shape)))
    net.fc2.register_forward_hook(lambda module, _args, out: setattr(module, "norm", out.detach().norm()))
    net.fc3.register_full_backward_hook(lambda module, *_: shapes.append(tuple(module.weight.shape)))
    run(sparse, half(sparse), X).sum().backward()
    assert shapes == [(2, 6), (3, 4)]
    assert net.fc2.norm > 0


@RUNS
@pytest.mark.parametrize("how", ["root", "in place", "layer", "layer in place"])
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python:RuntimeWarning")
def test_what_was_compiled_runs_as_the_masked_network_does(how, run):
    net = four_layers(lambda s, x: s.fc2(s.fc1(x)))
    plain = sparsify(copy.deepcopy(net), X)
    if how == "layer":
        net.fc2 = torch.compile(net.fc2, backend="eager")
    elif how != "root":
        (net if how == "in place" else net.fc2).compile(backend="eager")
    sparse = sparsify(torch.compile(net, backend="eager") if how == "root" else net, X)
    for gates in (half(plain), random_gates(plain)):
        values = dict(zip((group.name for group in sparse.groups), gates.values(), strict=True))
        assert_same(run(sparse, values, X), masked(plain, gates, X))


@RUNS
def test_a_module_of_pyro(run):
    net = PyroModule[nn.Sequential](PyroModule[nn.Linear](6, 5), nn.ReLU(), PyroModule[nn.Linear](5, 3))
    sparse = sparsify(net, X)
    gates = random_gates(sparse)
    assert_same(run(sparse, gates, X), masked(sparse, gates, X))


def test_a_run_leaves_nothing_on_a_sparse_module():
    sparse = sparsify(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), X)
    before = len(pickle.dumps(sparse))
    sparse.run(half(sparse), X)
    assert len(pickle.dumps(sparse)) == before
    other = pickle.loads(pickle.dumps(copy.deepcopy(sparse)))  # noqa: S301 (our own)
    assert torch.equal(other.run(half(sparse), X), sparse.run(half(sparse), X))
