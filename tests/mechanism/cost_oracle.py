"""Small networks with few gates, and what they cost: every pattern of open and closed gates, counted one by one."""

import itertools

import torch
from named_layers import Net
from torch import nn


def sequence(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers))


def linear(*sizes):
    return lambda: nn.Linear(*sizes)


def conv(*sizes, **options):
    return lambda: nn.Conv2d(*sizes, **options)


def stream(*order, through=lambda x: x):
    """What the middle layer makes is added to what it reads: its rows and columns have the same gates."""
    layers = {"fc1": linear(2, 3), "fc2": linear(3, 3), "fc3": linear(3, 2)}

    def run(self, x):
        hidden = self.fc1(x).relu()
        return self.fc3(hidden + through(self.fc2(hidden)))

    return lambda: Net(run, **{name: layers[name]() for name in order or layers})


def residual():
    """A convolutional stream with a bottleneck beside it."""
    layers = {"stem": nn.Conv2d(1, 3, 3), "down": nn.Conv2d(3, 2, 1, bias=False), "norm": nn.BatchNorm2d(2)}

    def run(self, x):
        hidden = self.stem(x)
        return self.fc((hidden + self.up(self.norm(self.down(hidden)).relu())).flatten(1))

    return Net(run, **layers, up=nn.Conv2d(2, 3, 1), fc=nn.Linear(12, 2))


def concatenated():
    layers = {"left": nn.Linear(3, 2), "right": nn.Linear(3, 3), "fc": nn.Linear(8, 3), "last": nn.Linear(3, 2)}
    return Net(lambda self, x: self.last(self.fc(torch.cat([self.left(x), x, self.right(x).tanh()], -1))), **layers)


def attention():
    """Heads, in a stream that their output is added to."""

    def run(self, x):
        hidden = self.embed(x)
        return self.fc(hidden + self.heads(hidden, hidden, hidden, need_weights=False)[0])

    return Net(run, embed=nn.Linear(3, 4), heads=nn.MultiheadAttention(4, 2), fc=nn.Linear(4, 3))


def twice():
    layers = {"fc1": nn.Linear(3, 3), "fc2": nn.Linear(3, 3), "fc3": nn.Linear(3, 2)}
    return Net(lambda self, x: self.fc3(self.fc2(self.fc2(self.fc1(x).relu()).relu()).relu()), **layers)


def grouped_norm():
    return nn.GroupNorm(2, 4)


mlp = sequence(linear(3, 3), nn.ReLU, linear(3, 3), nn.ReLU, linear(3, 2))
lenet = sequence(conv(1, 2, 2), conv(2, 2, 2), nn.Flatten, linear(8, 2), linear(2, 2))
depthwise = sequence(
    conv(1, 3, 3), lambda: nn.BatchNorm2d(3), nn.ReLU, conv(3, 3, 2, groups=3), nn.Flatten, linear(3, 2), linear(2, 2)
)
groups = sequence(
    conv(1, 4, 2),
    conv(4, 6, 2, groups=2),
    conv(6, 4, 1),
    grouped_norm,
    lambda: nn.ConvTranspose2d(4, 3, 2),
    conv(3, 2, 1),
)
X, STREAM, IMAGES = (torch.ones(2, *shape, dtype=torch.float64) for shape in ((3,), (2,), (1, 4, 4)))
EXAMPLES = {
    "units": (mlp, X, "unit"),
    "inputs": (mlp, X, "input"),
    "units and inputs": (mlp, X, {"2": "unit", "*": "input"}),
    "convolutions": (depthwise, IMAGES, "unit"),
    "groups": (groups, IMAGES, "unit"),
    "stream": (stream(), STREAM, "unit"),
    "stream in another order": (stream(through=lambda x: x.flip(-1)), STREAM, "unit"),
    "inputs of a stream": (stream(), STREAM, "input"),
    "residual": (residual, IMAGES, "unit"),
    "lenet": (lenet, IMAGES, "unit"),
    "two gates over a column": (lenet, IMAGES, {"[01]": "unit", "3": "input"}),
    "concatenation": (concatenated, X, "unit"),
    "inputs of a concatenation": (concatenated, X, {"left": "unit", "fc": "input"}),
    "attention": (attention, torch.ones(5, 2, 3, dtype=torch.float64), "unit"),
    "twice": (twice, X, "unit"),
    "embedding": (sequence(lambda: nn.Embedding(5, 3), linear(3, 2), linear(2, 2)), torch.ones(2, dtype=int), "unit"),
    "weights": (sequence(linear(3, 2), linear(2, 2)), X, "weight"),
    "weights between units": (mlp, X, {"0": "unit", "2": "weight"}),
    "weights of filters": (sequence(conv(1, 2, 2), conv(2, 1, 2)), IMAGES, {"0": "unit", "1": "weight"}),
    "weights under gates of rows and columns": (
        sequence(linear(3, 2), nn.ReLU, linear(2, 3), nn.ReLU, linear(3, 2)),
        X,
        {"0": "unit", "2": "weight", "4": "input"},
    ),
    "weights of a stream": (stream(), STREAM, {"fc1": "unit", "fc2": "weight"}),
    "weights of a stream, asked first": (stream("fc2", "fc1", "fc3"), STREAM, {"fc1": "unit", "fc2": "weight"}),
}


# -- counting --------------------------------------------------------------------------------------------------------


def every_pattern(structure):
    """Group name to 0 and 1, one row for each of the 2ⁿ patterns."""
    sizes = [group.size for group in structure.groups]
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=sum(sizes))))
    return dict(zip([group.name for group in structure.groups], every.split(sizes, dim=1), strict=True))


def living(structure, patterns, per_element):
    """The cost of what lives under each pattern: a mask for each parameter, element by element."""
    total = torch.zeros(len(next(iter(patterns.values()))))
    for tensor, shape in structure.shapes.items():
        alive, gated = torch.ones(len(total), *shape), torch.zeros(shape, dtype=torch.bool)
        for group in structure.groups:
            for part in (part for part in group.slices if part.tensor == tensor):
                line = shape if part.dim is None else [-1 if dim == part.dim else 1 for dim in range(len(shape))]
                padded = torch.cat((patterns[group.name], torch.ones(len(total), 1)), 1)
                alive = alive * padded[:, part.gates].reshape(len(total), *line)
                gated = gated | (part.gates >= 0).reshape(line)
        total += per_element.get(tensor, 0.0) * (alive * gated).flatten(1).sum(1)
    return total


def mean(structure, probs, per_element):
    """The expectation, pattern by pattern; differentiable."""
    patterns = every_pattern(structure)
    chances = [torch.where(patterns[name] > 0, p, 1 - p).prod(1) for name, p in probs.items()]
    return torch.stack(chances).prod(0) @ living(structure, patterns, per_element)


def random_probs(structure):
    return {group.name: torch.rand(group.size, requires_grad=True) for group in structure.groups}


def random_costs(structure):
    return {name: 0.5 + torch.rand(()).item() for name in structure.shapes}
