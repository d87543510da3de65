"""Norms over live features: the residual stream of a transformer has gates, and the network is its subnetwork."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from subnetwork_oracle import (
    assert_same,
    assert_same_step,
    constant_gates,
    hooked,
    library,
    masked,
    random_gates,
    subnetwork,
)
from torch import nn

from l0bayes import compact, sparsify
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches, fit, load, predict, save, shrink
from l0bayes.models import Classifier
from l0bayes.testing import check_sparsify

HEADS, WIDTH, LENGTH, INPUTS = 4, 16, 7, 5
STREAM = "embed.unit"


class OwnRMSNorm(nn.Module):
    """As transformers' Llama has it."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


NORMS = {"layer norm": nn.LayerNorm, "rms norm": nn.RMSNorm, "own rms norm": OwnRMSNorm}


class Block(nn.Module):
    """Attention and a perceptron, each behind a norm, added to the stream."""

    def __init__(self, norm):
        super().__init__()
        self.norm1, self.norm2 = norm(WIDTH), norm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Transformer(nn.Module):
    """Positions that are learned, a token of its own for the class, two blocks, a norm."""

    def __init__(self, norm=nn.LayerNorm):
        super().__init__()
        self.embed = nn.Linear(INPUTS, WIDTH)
        self.first = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, LENGTH + 1, WIDTH))
        self.blocks = nn.Sequential(Block(norm), Block(norm))
        self.norm = norm(WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = torch.cat((self.first.expand(len(x), -1, -1), self.embed(x)), 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


def live(norm=nn.LayerNorm, **options):
    torch.manual_seed(0)
    net = Transformer(norm).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return sparsify(net, data(2), norms="live", **options)


def data(rows=3):
    return torch.randn(rows, LENGTH, INPUTS, generator=torch.Generator().manual_seed(rows)).double()


def by_hand(sparse, gates, x):
    """The definition written out: statistics weighted by which features are open, readers multiplied by gates."""
    here = (gates[STREAM] != 0).double()

    def statistics(norm, args, _output):
        (x,) = args
        number = here.sum()
        if isinstance(norm, nn.LayerNorm):
            mean = (x * here).sum(-1, keepdim=True) / number
            variance = ((x - mean).square() * here).sum(-1, keepdim=True) / number
            return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
        eps = norm.variance_epsilon if isinstance(norm, OwnRMSNorm) else torch.finfo(x.dtype).eps
        return x / ((x.square() * here).sum(-1, keepdim=True) / number + eps).sqrt() * norm.weight

    readers = {}
    for block in ("blocks.0", "blocks.1"):
        readers |= {
            f"{block}.fc1": lambda gates: gates[STREAM],
            f"{block}.fc2": lambda gates, name=f"{block}.fc1.unit": gates[name],
            f"{block}.attention": lambda gates: gates[STREAM],
            f"{block}.attention.out_proj": lambda gates, name=f"{block}.attention.unit": gates[name].repeat_interleave(
                WIDTH // HEADS
            ),
        }
    readers["head"] = lambda gates: gates[STREAM]
    norms = [m for m in sparse.net.modules() if isinstance(m, (nn.LayerNorm, nn.RMSNorm, OwnRMSNorm))]
    hooks = [norm.register_forward_hook(statistics) for norm in norms]
    attention = []
    for block in sparse.net.blocks:
        z = gates[STREAM]
        pre = block.attention.register_forward_pre_hook(lambda _m, args, z=z: tuple(a * z for a in args))
        attention.append(pre)
    try:
        plain = {name: value for name, value in readers.items() if not name.endswith("attention")}
        return hooked(plain)(sparse, gates, x)
    finally:
        for hook in (*hooks, *attention):
            hook.remove()


@pytest.mark.parametrize("norm", NORMS)
def test_stream_heads_and_units_have_gates(norm):
    sparse = live(NORMS[norm])
    assert {group.name: group.size for group in sparse.groups} == {
        STREAM: WIDTH,
        "blocks.0.attention.unit": HEADS,
        "blocks.0.fc1.unit": 24,
        "blocks.1.attention.unit": HEADS,
        "blocks.1.fc1.unit": 24,
    }
    assert [group.name for group in sparse.groups if group.normalised] == [STREAM]


@pytest.mark.parametrize("norm", NORMS)
def test_steps_are_those_of_statistics_written_out(norm):
    sparse = live(NORMS[norm])
    for noise in range(4):
        torch.manual_seed(noise)
        log_alphas = {g.name: torch.randn(g.size).double().requires_grad_() for g in sparse.groups}
        assert_same_step(sparse, (data(),), log_alphas, noise, by_hand)


@pytest.mark.parametrize("norm", NORMS)
def test_open_gates_leave_the_network_as_it_is(norm):
    sparse = live(NORMS[norm])
    for run in (masked, subnetwork, library, by_hand):
        assert_same(run(sparse, constant_gates(sparse, 1.0), data()), sparse.net(data()))


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_closed_altogether_leaves_the_bias(norm):
    sparse = live(NORMS[norm])
    gates = constant_gates(sparse, 1.0)
    gates[STREAM] = torch.zeros(WIDTH).double()
    for run in (masked, subnetwork, library):
        assert_same(run(sparse, gates, data()), sparse.net.head.bias.expand(3, -1))


@pytest.mark.parametrize("how", [{"round_to": 8}, {"masked": True}], ids=str)
def test_closed_features_of_the_stream_are_never_there(how):
    sparse = live()
    gates = random_gates(sparse)
    gates = {name: gate.double() for name, gate in gates.items()}
    with sparse.narrowing(**how):
        assert_same(sparse.run(gates, data()), by_hand(sparse, gates, data()))


def test_nearly_open_streams_are_narrowed_too():
    sparse = live()
    gates = constant_gates(sparse, 1.0)
    gates[STREAM][3] = 0
    assert_same(sparse.run(gates, data()), by_hand(sparse, gates, data()))


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("norm", NORMS)
def test_the_finished_network_is_the_subnetwork(norm, round_to, tmp_path):
    sparse = live(NORMS[norm])
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        for name, parameter in guide.named_parameters():
            parameter.copy_(
                torch.linspace(-6, 6, len(parameter))[torch.randperm(len(parameter))] if name else parameter
            )
    gates = {name: gate.double() for name, gate in guide.point().items()}
    expected = by_hand(sparse, gates, data())
    small = compact(sparse, guide, round_to=round_to)
    assert_same(small(data()), expected, 1e-6)
    assert_same(predict(sparse, guide, data(), gates="point"), expected, 1e-6)
    assert len(small.norm.weight) == int((gates[STREAM] != 0).sum())
    save(small, tmp_path / "small.safetensors")
    again = load(tmp_path / "small.safetensors", Transformer(NORMS[norm]).double())
    assert_same(again(data()), small(data()))


def test_a_network_shrunk_while_training_goes_on_as_it_was():
    sparse = live()
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        guide.parameter(f"log_alpha.{STREAM}").copy_(torch.linspace(-20, 6, WIDTH))
    gates = {name: gate.double() for name, gate in guide.point().items()}
    expected = by_hand(sparse, gates, data())
    before = WIDTH
    shrink(sparse, guide, closed_below=1e-3)
    (stream,) = [group for group in sparse.groups if group.normalised]
    assert stream.size < before
    gates = {name: gate.double() for name, gate in guide.point().items()}
    assert_same(sparse.run(gates, data()), expected, 1e-6)


def test_by_default_the_stream_is_dense_and_says_why():
    sparse = sparsify(Transformer(), torch.randn(2, LENGTH, INPUTS))
    assert STREAM not in {group.name for group in sparse.groups}
    assert "normalises over all of its features" in sparse.structure.dense["embed"]


def test_norms_that_heads_share_stay_as_they_are():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.q, self.k, self.v = (nn.Linear(n, WIDTH) for n in (INPUTS, WIDTH, WIDTH, WIDTH))
            self.norm_q, self.norm_k, self.norm = nn.LayerNorm(4), nn.LayerNorm(4), nn.LayerNorm(WIDTH)
            self.out, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x):
            x = self.embed(x)
            y = self.norm(x)
            q, k, v = (f(y).unflatten(-1, (-1, 4)).transpose(1, 2) for f in (self.q, self.k, self.v))
            a = F.scaled_dot_product_attention(self.norm_q(q), self.norm_k(k), v)
            return self.head((x + self.out(a.transpose(1, 2).flatten(2))).mean(1))

    sparse = check_sparsify(Queries(), torch.randn(2, LENGTH, INPUTS), norms="live")
    sizes = {group.name: group.size for group in sparse.groups}
    assert sizes[STREAM] == WIDTH
    assert sizes["q.unit"] == HEADS


def test_group_norm_of_one_group():
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.GroupNorm(1, 6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.GroupNorm(1, 5),
        nn.Flatten(),
        nn.Linear(20, 3),
    )
    sparse = check_sparsify(net, torch.randn(2, 2, 6, 6), norms="live")
    assert {group.name: group.size for group in sparse.groups} == {"0.unit": 6, "3.unit": 5}
    gates = {group.name: (torch.arange(group.size) % 3 != 0).double() for group in sparse.groups}
    x, net = torch.randn(2, 2, 6, 6).double(), sparse.net
    first = net[0](x)[:, gates["0.unit"] != 0]
    norm = net[1]
    mean, variance = first.mean((1, 2, 3), keepdim=True), first.var((1, 2, 3), keepdim=True, unbiased=False)
    keep = gates["0.unit"] != 0
    y = (first - mean) / (variance + norm.eps).sqrt() * norm.weight[keep, None, None] + norm.bias[keep, None, None]
    z = F.conv2d(y.relu(), net[3].weight[:, keep], net[3].bias)[:, gates["3.unit"] != 0]
    mean, variance = z.mean((1, 2, 3), keepdim=True), z.var((1, 2, 3), keepdim=True, unbiased=False)
    keep = gates["3.unit"] != 0
    z = (z - mean) / (variance + net[4].eps).sqrt() * net[4].weight[keep, None, None] + net[4].bias[keep, None, None]
    weight = net[6].weight.reshape(3, 5, 4)[:, keep]
    expected = z.flatten(1) @ weight.flatten(1).T + net[6].bias
    torch.testing.assert_close(sparse.run(gates, x), expected, rtol=1e-9, atol=1e-9)


def test_training_reaches_a_target_of_stream_heads_and_units():
    torch.manual_seed(0)
    x = torch.randn(256, LENGTH, INPUTS)
    y = (x[:, 0, 0] > 0).long() + (x[:, 1, 1] > 0).long()
    model = Classifier(sparsify(Transformer(), x[:2], norms="live"), num_data=len(x))
    guide = HardConcreteGuide(model)
    result = fit(
        model, guide, TensorBatches(x, y, 32, shuffle=True), epochs=30, lr=3e-3, target=Target(0.3), progress=False
    )
    (reached,) = result.reached.values()
    assert 0.29 <= reached <= 0.3
    small = compact(model, guide)
    torch.testing.assert_close(small(x), predict(model, guide, x), rtol=1e-4, atol=1e-4)
    assert len(small.norm.weight) < WIDTH
    assert (small(x).argmax(-1) != y).float().mean() < 0.15


def test_a_checkpoint_of_whole_norms_is_not_resumed_with_live_ones(tmp_path):
    x = torch.randn(32, LENGTH, INPUTS)
    loader = TensorBatches(x, torch.zeros(32).long(), 4)
    for norms in ("whole", "live"):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(INPUTS, 6), nn.LayerNorm(6), nn.Flatten(), nn.Linear(6 * LENGTH, 8), nn.Linear(8, 3)
        )
        model = Classifier(sparsify(net, x[:2], norms=norms), num_data=32)
        run = {"epochs": 4, "checkpoint": tmp_path / "run.ckpt", "progress": False}
        if norms == "whole":
            fit(model, HardConcreteGuide(model), loader, **run)
        else:
            with pytest.raises(Exception, match="checkpoint"):
                fit(model, HardConcreteGuide(model), loader, **run)


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="norms must be one of whole, live; got 'open'"):
        sparsify(Transformer(), torch.randn(2, LENGTH, INPUTS), norms="open")


def test_copies_keep_their_norms():
    sparse = live()
    gates = {name: gate.double() for name, gate in random_gates(sparse).items()}
    assert_same(copy.deepcopy(sparse).run(gates, data()), by_hand(sparse, gates, data()))
