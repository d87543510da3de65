"""Layers of every kind: the slices predicted by hand, and outputs that are exact for any gates."""

import pytest
import torch
from awkward_nets import Network, exactly_gated, sizes, slices
from torch import nn
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)


@pytest.fixture(autouse=True)
def _double(_same_start):
    torch.set_default_dtype(torch.float64)


def image(channels=3, size=4):
    return torch.randn(3, channels, size, size)


# -- streams and concatenations --------------------------------------------------------------------------------


def residual():
    def use(s, x):
        x = s.bn(s.stem(x)).relu()
        for conv1, conv2 in ((s.conv1, s.conv2), (s.conv3, s.conv4)):
            x = x + conv2(conv1(x).relu())
        return s.fc(x.mean((2, 3)))

    return Network(
        use,
        stem=nn.Conv2d(3, 4, 3, bias=False),
        bn=nn.BatchNorm2d(4),
        conv1=nn.Conv2d(4, 5, 1),
        conv2=nn.Conv2d(5, 4, 1),
        conv3=nn.Conv2d(4, 6, 1),
        conv4=nn.Conv2d(6, 4, 1),
        fc=nn.Linear(4, 2),
    )


def test_a_residual_stream_has_one_group_named_after_its_first_layer():
    groups = {group.name: group for group in exactly_gated(residual(), image()).groups}
    assert list(groups) == ["stem.unit", "conv1.unit", "conv3.unit"]
    each = [0, 1, 2, 3]
    readers = {(f"{name}.weight*", 1): each for name in ("conv1", "conv3", "fc")}
    makers = {(f"{name}.weight", 0): each for name in ("stem", "conv2", "conv4")}
    own = {(f"bn.{name}", 0): each for name in ("weight", "bias", "running_mean", "running_var")}
    biases = {(f"{name}.bias", 0): each for name in ("conv2", "conv4")}
    assert slices(groups["stem.unit"]) == readers | makers | own | biases
    assert groups["stem.unit"].own.tolist() == [27 + 5 + 6] * 4
    assert groups["conv1.unit"].own.tolist() == [4] * 5


def test_a_chain_keeps_a_unit_and_a_branch_beside_a_shortcut_none():
    sparse = exactly_gated(residual(), image())
    assert {group.name: group.min_units for group in sparse.groups} == {
        "stem.unit": 1,
        "conv1.unit": 0,
        "conv3.unit": 0,
    }


def test_layers_that_are_concatenated_keep_groups_of_their_own():
    def use(s, x):
        x = torch.cat([s.a(x), s.b(x)], 1)
        return s.last(torch.cat([x, s.c(s.norm(x).relu())], 1))

    net = Network(
        use,
        a=nn.Conv2d(3, 2, 1),
        b=nn.Conv2d(3, 3, 1),
        norm=nn.BatchNorm2d(5),
        c=nn.Conv2d(5, 4, 1),
        last=nn.Conv2d(9, 2, 1),
    )
    groups = {group.name: group for group in exactly_gated(net, image()).groups}
    assert list(groups) == ["a.unit", "b.unit", "c.unit"]
    assert slices(groups["b.unit"]) == {
        ("c.weight*", 1): [-1, -1, 0, 1, 2],
        ("last.weight*", 1): [-1, -1, 0, 1, 2, -1, -1, -1, -1],
        ("b.weight", 0): [0, 1, 2],
        ("b.bias", 0): [0, 1, 2],
        **{(f"norm.{name}", 0): [-1, -1, 0, 1, 2] for name in ("weight", "bias", "running_mean", "running_var")},
    }
    assert [group.min_units for group in groups.values()] == [0, 0, 0]


def test_padding_does_not_carry_on_without_a_layer():
    net = Network(lambda s, x: s.fc2(F.pad(s.fc1(x), (0, 2))), fc1=nn.Linear(4, 3), fc2=nn.Linear(5, 2))
    (group,) = exactly_gated(net, torch.randn(3, 4)).groups
    assert slices(group)["fc2.weight*", 1] == [0, 1, 2, -1, -1]
    assert group.min_units == 1


def test_flattened_maps_are_read_at_many_columns():
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(12, 4), nn.ReLU())
    net.append(nn.Linear(4, 2))
    conv, _ = exactly_gated(net, image(size=5)).groups
    assert slices(conv)["3.weight*", 1] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


# -- convolutions ----------------------------------------------------------------------------------------------


def test_a_depthwise_convolution_lives_and_dies_with_its_channels():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.ReLU6(), nn.Conv2d(6, 2, 1)
    )
    (group,) = exactly_gated(net, image()).groups
    each = list(range(6))
    expected = {(name, 0): each for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
    assert slices(group) == {("4.weight*", 1): each} | expected
    assert group.own.tolist() == [3 + 9] * 6
    assert net[2].groups == 6


@pytest.mark.parametrize("made", [4, 8])
def test_a_grouped_convolution_has_whole_groups(made):
    grouped = nn.Conv2d(6, made, 3, groups=2, padding=1)
    net = nn.Sequential(nn.Conv2d(3, 6, 1), grouped, nn.ReLU(), nn.Conv2d(made, 2, 1))
    (group,) = exactly_gated(net, image()).groups
    halves = [0] * (made // 2) + [1] * (made // 2)
    found = slices(group)
    assert found["0.weight", 0] == [0, 0, 0, 1, 1, 1]
    assert found["1.weight", 0] == found["1.bias", 0] == found["3.weight*", 1] == halves


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_transposed_convolution_reads_along_its_first_dimension(dims, groups):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    net = nn.Sequential(conv(2, 4, 1), transposed(4, 6, 2, stride=2, groups=groups), nn.ReLU(), conv(6, 2, 1))
    found = [slices(group) for group in exactly_gated(net, torch.randn(2, 2, *[3] * dims)).groups]
    if groups == 1:
        assert found[0]["1.weight*", 0] == [0, 1, 2, 3]
        assert found[1]["1.weight", 1] == [0, 1, 2, 3, 4, 5]
    else:
        assert found[0]["1.weight", 0] == [0, 0, 1, 1]
        assert found[0]["1.bias", 0] == [0, 0, 0, 1, 1, 1]


def test_pixel_shuffle_makes_one_channel_of_four():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(2, 2, 1))
    (group,) = exactly_gated(net, image()).groups
    assert slices(group)["0.weight", 0] == [0, 0, 0, 0, 1, 1, 1, 1]
    back = nn.Sequential(nn.Conv2d(3, 2, 1), nn.PixelUnshuffle(2), nn.Conv2d(8, 2, 1))
    (group,) = exactly_gated(back, image()).groups
    assert slices(group)["2.weight*", 1] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_squeeze_and_excite_is_tied_to_the_channels_that_it_scales():
    net = Network(
        lambda s, x: s.out(s.conv(x) * s.up(s.down(s.conv(x).mean((2, 3))).relu()).sigmoid()[..., None, None]),
        conv=nn.Conv2d(3, 6, 1),
        down=nn.Linear(6, 2),
        up=nn.Linear(2, 6),
        out=nn.Conv2d(6, 2, 1),
    )
    channels, hidden = exactly_gated(net, image()).groups
    tied = {"conv.weight", "up.weight", "up.bias", "down.weight*", "out.weight*"}
    assert tied <= {name for name, _ in slices(channels)}
    assert (hidden.name, hidden.size, hidden.min_units) == ("down.unit", 2, 0)


# -- norms and parameters that act on features -----------------------------------------------------------------


BETWEEN = {
    "group norm": (nn.GroupNorm(3, 6), 3),
    "group norm of each": (nn.GroupNorm(6, 6), 6),
    "batch norm": (nn.BatchNorm2d(6), 6),
    "batch norm without parameters": (nn.BatchNorm2d(6, affine=False), 6),
    "batch norm without statistics": (nn.BatchNorm2d(6, track_running_stats=False), 6),
    "instance norm with scale": (nn.InstanceNorm2d(6, affine=True), 6),
    "instance norm with statistics": (nn.InstanceNorm2d(6, affine=True, track_running_stats=True), 6),
    "prelu of each": (nn.PReLU(6), 6),
    "prelu of all": (nn.PReLU(), 6),
    "upsampling": (nn.Upsample(scale_factor=2), 6),
    "bilinear upsampling": (nn.Upsample(scale_factor=2, mode="bilinear"), 6),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_two_convolutions_is_narrowed_with_them(name):
    layer, gates = BETWEEN[name]
    net = nn.Sequential(nn.Conv2d(3, 6, 1), layer, nn.Conv2d(6, 2, 1)).double()
    (group,) = exactly_gated(net, image()).groups
    each = [channel * gates // 6 for channel in range(6)]
    assert slices(group)["0.weight", 0] == slices(group)["2.weight*", 1] == each
    own = [name for name, tensor in layer.state_dict().items() if tensor.shape == (6,)]
    assert all(slices(group)[f"1.{name}", 0] == each for name in own)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_a_stream_that_is_normalised_as_a_whole_stays_dense_and_says_where(norm):
    net = nn.Sequential(nn.Linear(4, 6), norm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    sparse = exactly_gated(net, torch.randn(3, 4))
    assert sizes(sparse) == {"2.unit": 5}
    assert "'1'" in sparse.structure.dense["0"]
    assert "all of its features" in sparse.structure.dense["0"]


ACTING = {
    "layer scale": (lambda s, h: h * s.own, nn.Parameter(torch.randn(5)), 0),
    "bias of its own": (lambda s, h: h + s.own, nn.Parameter(torch.randn(1, 1, 5)), 2),
    "positions": (lambda s, h: h + s.own, nn.Parameter(torch.randn(1, 4, 5)), 2),
    "some of more positions": (lambda s, h: h + s.own[: h.shape[1]], nn.Parameter(torch.randn(9, 5)), 1),
    "fixed positions": (lambda s, h: h + s.own, torch.randn(4, 5), 1),
    "some of more fixed positions": (lambda s, h: h + s.own[: h.shape[1]], torch.randn(9, 5), 1),
    "a class token": (
        lambda s, h: torch.cat([s.own.expand(len(h), 1, -1), h], 1),
        nn.Parameter(torch.randn(1, 1, 5)),
        2,
    ),
}


@pytest.mark.parametrize("name", ACTING)
def test_parameters_and_buffers_that_act_on_features_are_narrowed_with_them(name):
    act, own, dim = ACTING[name]
    net = Network(
        lambda s, x: s.fc3(s.fc2(act(s, s.fc1(x)).relu()).relu()),
        fc1=nn.Linear(6, 5),
        fc2=nn.Linear(5, 4),
        fc3=nn.Linear(4, 2),
        own=own.double() if type(own) is torch.Tensor else nn.Parameter(own.double()),
    )
    group, _ = exactly_gated(net, torch.randn(3, 4, 6)).groups
    assert slices(group)["own", dim] == [0, 1, 2, 3, 4]


def test_buffers_that_are_not_saved_are_narrowed_too():
    net = Network(lambda s, x: s.fc2((s.fc1(x) + s.own).relu()), fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 2))
    net.register_buffer("own", torch.randn(5), persistent=False)
    assert sizes(exactly_gated(net, torch.randn(3, 6))) == {"fc1.unit": 5}


@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_number_for_all_features_ties_nothing(shape):
    net = Network(
        lambda s, x: s.fc2(s.fc1(x) * s.scale.exp()),
        fc1=nn.Linear(6, 5),
        fc2=nn.Linear(5, 2),
        scale=nn.Parameter(torch.zeros(shape)),
    )
    (group,) = exactly_gated(net, torch.randn(3, 6)).groups
    assert group.size == 5
    assert "scale" not in {name for name, _ in slices(group)}


@pytest.mark.parametrize("padding", [None, 0])
def test_columns_of_an_embedding_are_units(padding):
    net = nn.Sequential(nn.Embedding(7, 5, padding_idx=padding), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    group, _ = exactly_gated(net, torch.randint(0, 7, (3, 4))).groups
    assert (group.name, group.size) == ("0.unit", 5)
    assert slices(group) == {("1.weight*", 1): [0, 1, 2, 3, 4], ("0.weight", 1): [0, 1, 2, 3, 4]}
    assert group.own.tolist() == [7] * 5


def test_embeddings_that_are_added_up_share_their_gates():
    net = Network(
        lambda s, x: s.fc(s.words(x) + s.places(torch.arange(x.shape[1]))),
        words=nn.Embedding(7, 5),
        places=nn.Embedding(9, 5),
        fc=nn.Linear(5, 2),
    )
    (group,) = exactly_gated(net, torch.randint(0, 7, (3, 4))).groups
    assert {name for name, _ in slices(group)} == {"fc.weight*", "words.weight", "places.weight"}
