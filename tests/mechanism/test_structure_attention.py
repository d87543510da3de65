"""Heads of attention are units: found wherever the width allows it, and dense with a reason where it does not."""

import pytest
import torch
from awkward_nets import Layers, Network, exactly_gated, sizes, slices
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from l0bayes import sparsify
from l0bayes.errors import StructureError

HEADS = [head for head in range(3) for _ in range(2)]


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


class Attending(Layers):
    """One attention over a normalised stream, which stays dense, and a way around it."""

    def __init__(self, options=None, **call):
        super().__init__(
            inner=nn.Linear(4, 6),
            norm=nn.LayerNorm(6),
            attention=nn.MultiheadAttention(6, 3, **{"batch_first": True, **(options or {})}),
            out=nn.Linear(6, 2),
        )
        self.call = call

    def forward(self, x, other=None):
        h = self.norm(self.inner(x))
        read = h if other is None else self.norm(self.inner(other))
        attended, _ = self.attention(h, read, read, **self.call)
        return self.out(h + attended)


def tokens(length=4):
    return torch.randn(3, length, 4)


CAUSAL = torch.ones(4, 4, dtype=torch.bool).triu(1)
LATE = torch.arange(4)[None] >= torch.tensor([[4], [2], [3]])
CALLS = {
    "weights asked for": {},
    "no weights": {"need_weights": False},
    "weights of each head": {"average_attn_weights": False},
    "mask": {"attn_mask": CAUSAL},
    "mask, no weights": {"attn_mask": CAUSAL, "need_weights": False},
    "causal": {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    "padding": {"key_padding_mask": LATE},
    "padding, no weights": {"key_padding_mask": LATE, "need_weights": False},
}


@pytest.mark.parametrize("name", CALLS)
def test_heads_are_units_however_it_is_called(name):
    (group,) = exactly_gated(Attending(**CALLS[name]), tokens()).groups
    assert (group.name, group.size, group.min_units) == ("attention.unit", 3, 0)
    assert slices(group) == {
        ("attention.out_proj.weight*", 1): HEADS,
        ("attention.in_proj_weight", 0): HEADS * 3,
        ("attention.in_proj_bias", 0): HEADS * 3,
    }
    assert group.own.tolist() == [3 * 2 * 6] * 3


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("options", [{"batch_first": False}, {"bias": False}, {"kdim": 6, "vdim": 6}])
def test_heads_are_units_with_other_options(options, need_weights):
    assert sizes(exactly_gated(Attending(options, need_weights=need_weights), tokens())) == {"attention.unit": 3}


@pytest.mark.parametrize("need_weights", [True, False])
def test_heads_of_cross_attention_are_units(need_weights):
    sparse = exactly_gated(Attending(need_weights=need_weights), tokens(), tokens(5))
    assert sizes(sparse) == {"attention.unit": 3}


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 4, "vdim": 4}])
def test_attention_with_special_options_stays_dense(options):
    def use(s, x):
        h = s.inner(x)
        read = h if s.attention.kdim == 6 else x
        return s.out(s.attention(h, read, read, need_weights=False)[0])

    net = Network(
        use,
        inner=nn.Linear(4, 6),
        attention=nn.MultiheadAttention(6, 3, batch_first=True, **options),
        out=nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)),
    )
    sparse = exactly_gated(net, tokens())
    assert "attention.unit" not in sizes(sparse)
    assert "cannot run with fewer heads" in sparse.structure.dense["attention"]


def test_a_subclass_of_attention_stays_dense():
    class Own(nn.MultiheadAttention):
        pass

    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6))
    body = Network(
        lambda s, x: s.out(s.attention(*[s.inner(x)] * 3)[0]),
        inner=net,
        attention=Own(6, 3, batch_first=True),
        out=nn.Linear(6, 2),
    )
    sparse = exactly_gated(body, tokens())
    assert "Own with these options cannot run with fewer heads" in sparse.structure.dense["attention"]


def test_weights_that_are_handed_out_keep_the_heads():
    net = Network(
        lambda s, x: s.attention(*[s.inner(x)] * 3),
        inner=nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6)),
        attention=nn.MultiheadAttention(6, 3, batch_first=True),
    )
    sparse = exactly_gated(net, tokens())
    assert "attention.unit" not in sizes(sparse)
    assert "leave the network" in sparse.structure.dense["attention"]


@pytest.mark.parametrize("follows", [True, False])
def test_a_mask_for_each_head_must_know_how_many_there_are(follows):
    def use(s, x):
        number = s.attention.num_heads if follows else 3
        mask = torch.zeros(len(x) * number, 4, 4)
        mask[:, 0, 1] = -1.0
        h = s.norm(s.inner(x))
        return s.out(h + s.attention(h, h, h, attn_mask=mask, need_weights=False)[0])

    net = Network(
        use,
        inner=nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6)),
        norm=nn.LayerNorm(6),
        attention=nn.MultiheadAttention(6, 3, batch_first=True),
        out=nn.Linear(6, 2),
    )
    sparse = exactly_gated(net, tokens())
    assert ("attention.unit" in sizes(sparse)) is follows
    if not follows:
        assert "attn_mask" in sparse.structure.dense["attention"]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_a_transformer_layer_has_heads_and_hidden_units_and_a_dense_stream(norm_first, batch_first):
    layer = nn.TransformerEncoderLayer(6, 3, 8, dropout=0.0, norm_first=norm_first, batch_first=batch_first)
    sparse = exactly_gated(nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 2)), tokens())
    assert sizes(sparse) == {"1.self_attn.unit": 3, "1.linear1.unit": 8}
    assert {group.min_units for group in sparse.groups} == {0}
    assert "layer_norm in '1.norm" in sparse.structure.dense["0"]


def test_an_encoder_and_a_decoder():
    net = nn.Transformer(8, 4, 1, 1, 5, dropout=0.0, batch_first=True)
    sparse = exactly_gated(net, torch.randn(2, 4, 8), torch.randn(2, 3, 8))
    assert sizes(sparse) == {
        "encoder.layers.0.self_attn.unit": 4,
        "encoder.layers.0.linear1.unit": 5,
        "decoder.layers.0.self_attn.unit": 4,
        "decoder.layers.0.multihead_attn.unit": 4,
        "decoder.layers.0.linear1.unit": 5,
    }


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_dropout_does_not_hide_the_heads(dropout):
    layer = nn.TransformerEncoderLayer(6, 3, 8, dropout=dropout, batch_first=True)
    sparse = sparsify(nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 2)), tokens())
    assert sizes(sparse) == {"1.self_attn.unit": 3, "1.linear1.unit": 8}


# -- attention of the user's own -------------------------------------------------------------------------------


def own_attention(split, join, attend=F.scaled_dot_product_attention):
    def use(s, x):
        return s.out(join(attend(*(split(layer(x)) for layer in (s.q, s.k, s.v)))))

    return Network(use, q=nn.Linear(4, 6), k=nn.Linear(4, 6), v=nn.Linear(4, 6), out=nn.Linear(6, 2))


def by_hand(q, k, v):
    return (q @ k.mT * 2**-0.5).softmax(-1) @ v


WRITTEN = {
    "unflatten": (lambda x: x.unflatten(-1, (-1, 2)).transpose(1, 2), lambda x: x.transpose(1, 2).flatten(2)),
    "view": (lambda x: x.view(3, 4, -1, 2).transpose(1, 2), lambda x: x.transpose(1, 2).reshape(3, 4, -1)),
}


@pytest.mark.parametrize("attend", [F.scaled_dot_product_attention, by_hand])
@pytest.mark.parametrize("name", WRITTEN)
def test_attention_written_by_the_user_has_heads_if_it_states_their_size_alone(name, attend):
    (group,) = exactly_gated(own_attention(*WRITTEN[name], attend), tokens()).groups
    expected = {(f"{layer}.{tensor}", 0): HEADS for layer in "qkv" for tensor in ("weight", "bias")}
    assert slices(group) == {("out.weight*", 1): HEADS} | expected


HARD = {
    "number of heads": (lambda x: x.unflatten(-1, (3, -1)).transpose(1, 2), lambda x: x.transpose(1, 2).flatten(2)),
    "both": (lambda x: x.view(3, 4, 3, 2).transpose(1, 2), lambda x: x.transpose(1, 2).flatten(2)),
    "width": (lambda x: x.unflatten(-1, (-1, 2)).transpose(1, 2), lambda x: x.transpose(1, 2).reshape(3, 4, 6)),
}


@pytest.mark.parametrize("name", HARD)
def test_widths_written_into_views_are_kept_around_its_heads(name):
    sparse = exactly_gated(own_attention(*HARD[name]), tokens())
    assert sizes(sparse) == {"q.unit": 3}
    assert all(group.padded for group in sparse.groups)


def test_a_single_head_lives_and_dies_as_a_whole():
    with pytest.raises(StructureError, match="q: all of its features are coupled"):
        sparsify(own_attention(lambda x: x, lambda x: x), tokens())


def test_grouped_queries_go_with_their_keys():
    def use(s, x):
        q = s.q(x).unflatten(-1, (-1, 2, 2)).permute(0, 2, 3, 1, 4)  # heads of keys, queries of each
        k, v = (layer(x).unflatten(-1, (-1, 2)).transpose(1, 2)[:, :, None] for layer in (s.k, s.v))
        return s.out((by_hand(q, k, v)).permute(0, 3, 1, 2, 4).flatten(2))

    net = Network(use, q=nn.Linear(4, 12), k=nn.Linear(4, 6), v=nn.Linear(4, 6), out=nn.Linear(12, 2))
    (group,) = exactly_gated(net, tokens()).groups
    assert slices(group)["q.weight", 0] == [head for head in range(3) for _ in range(4)]
    assert slices(group)["k.weight", 0] == slices(group)["v.weight", 0] == HEADS


@pytest.mark.parametrize("is_causal", [False, True])
def test_grouped_queries_of_fused_attention_go_with_their_keys(is_causal):
    def use(s, x):
        q, k, v = (layer(x).unflatten(-1, (-1, 2)).transpose(1, 2) for layer in (s.q, s.k, s.v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
        return s.out(attended.transpose(1, 2).flatten(2))

    net = Network(use, q=nn.Linear(4, 12), k=nn.Linear(4, 6), v=nn.Linear(4, 6), out=nn.Linear(12, 2))
    (group,) = exactly_gated(net, tokens()).groups
    assert slices(group)["q.weight", 0] == [head for head in range(3) for _ in range(4)]
    assert slices(group)["k.weight", 0] == slices(group)["v.weight", 0] == HEADS
