"""Small networks whose features mix, branch, or are used in ways that a naive tracer gets wrong."""

import copy

import torch
from subnetwork_oracle import assert_same, library, masked, random_gates, subnetwork
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from l0bayes import sparsify
from l0bayes.subnetwork.compacted import compact_network


class Layers(nn.Module):
    """Keeps the layers it is given under their names; subclasses only say how they are used."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


class Network(Layers):
    """Layers, parameters and buffers under their names, used as a function says: ``forward(network, *inputs)``."""

    def __init__(self, use, **parts):
        buffers = {name: part for name, part in parts.items() if type(part) is torch.Tensor}
        super().__init__(**{name: part for name, part in parts.items() if name not in buffers})
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)
        self.use = use

    def forward(self, *inputs):
        return self.use(self, *inputs)


def four_layers(use, **more):
    """Two layers, and two more behind them that can be gated whatever comes before."""
    parts = {"fc1": nn.Linear(6, 5), "fc2": nn.Linear(5, 4), "fc3": nn.Linear(4, 3), "fc4": nn.Linear(3, 2)}
    return Network(lambda s, x: s.fc4(s.fc3(use(s, x)).relu()), **(parts | more))


def exactly_gated(net, *inputs, gates="unit"):
    """A network with gates, after masked = subnetwork = compacted for many gates, in evaluation and in training.

    In float64, and with weights that are not those of the equivalence check. For networks without dropout.
    """
    sparse = sparsify(net, inputs, gates=gates)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_(-1.0, 1.0)
    before = copy.deepcopy(net.state_dict())
    for training in (False, True):
        net.train(training)
        for share_open in (0.0, 1.0, 0.1, 0.3, 0.5, 0.5, 0.7, 0.9):
            values = random_gates(sparse, share_open)
            outputs = []
            for run in (masked, subnetwork, library, compacted):
                outputs.append(tree_leaves(run(sparse, values, *inputs)))
                net.load_state_dict(before)
            for output in outputs[1:]:
                for found, expected in zip(output, outputs[0], strict=True):
                    assert_same(found, expected)
    return sparse


def compacted(sparse, values, *inputs):
    return compact_network(sparse.net, sparse.groups, values)(*inputs)


def sizes(sparse):
    return {group.name: group.size for group in sparse.groups}


def slices(group):
    """(tensor, dim) to the gate of each position, with a star where the gate multiplies."""
    return {(part.tensor + "*" * part.consumes, part.dim): part.gates.tolist() for part in group.slices}


class Skip(Layers):
    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 5), fc3=nn.Linear(5, 3))

    def forward(self, x):
        hidden = self.fc1(x).relu()
        return self.fc3((hidden + self.fc2(hidden)).relu())


class UsedTwice(Layers):
    """One layer applied twice, in the middle of the network."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 5), fc3=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc3(self.fc2(self.fc2(self.fc1(x).relu()).relu()).relu())


class UsedTwiceAdded(Layers):
    """One layer applied to two inputs, the results of which are added up and also joined."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(3, 5), fc2=nn.Linear(10, 3))

    def forward(self, x):
        left, right = self.fc1(x[:, :3]).relu(), self.fc1(x[:, 3:]).tanh()
        return self.fc2(torch.cat([left, left + right], -1))


class UsedTwiceLast(Layers):
    """One layer applied twice, the second time to give the output."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 5))

    def forward(self, x):
        return self.fc2(self.fc2(self.fc1(x).relu()).relu())


class TwoNames(Layers):
    """One layer registered under two names, run under the second one."""

    def __init__(self):
        layer = nn.Linear(6, 5)
        super().__init__(fc1=layer, again=layer, norm=nn.LayerNorm(6), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(self.again(self.norm(x)).relu())


class TiedWeights(Layers):
    """Two layers that share one weight matrix."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 6), fc2=nn.Linear(6, 6), fc3=nn.Linear(6, 3))
        self.fc2.weight = self.fc1.weight

    def forward(self, x):
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


class TwoReaders(Layers):
    """A feature read by two layers pays for, and disappears from, both."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), left=nn.Linear(5, 3), right=nn.Linear(5, 4))

    def forward(self, x):
        hidden = self.fc1(x).relu()
        return torch.cat([self.left(hidden), self.right(hidden)], dim=-1)


class Concatenated(Layers):
    def __init__(self):
        super().__init__(left=nn.Linear(6, 2), right=nn.Linear(6, 3), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(torch.cat([self.left(x).relu(), self.right(x).tanh()], dim=-1))


class Flipped(Layers):
    """Features reach their reader in another order."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(self.fc1(x).relu().flip(-1))


class Unseen(Layers):
    """A feature is also used where autograd does not look."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        hidden = self.fc1(x).relu()
        return self.fc2(hidden) + hidden.detach().sum(-1, keepdim=True)


class TwoOutputs(Layers):
    """Hidden features are handed out beside the output."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        hidden = self.fc1(x).relu()
        return self.fc2(hidden), hidden


class Idle(Layers):
    """One layer is never run."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), idle=nn.Linear(5, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(self.fc1(x).relu())


class ByKeyword(Layers):
    """Layers are called as ``layer(input=x)``."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(input=self.fc1(input=x).relu())


class ByFunction(Layers):
    """A layer's tensors are used without calling the layer."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return functional.linear(self.fc1(x).relu(), self.fc2.weight, self.fc2.bias)


class Convolutional(Layers):
    """Convolution, flattened, then linear layers."""

    def __init__(self):
        super().__init__(conv=nn.Conv2d(1, 3, 3), fc1=nn.Linear(12, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(self.fc1(self.conv(x.reshape(-1, 1, 4, 4)).relu().flatten(1)).relu())


class OverTime(Layers):
    """Linear layers on sequences, averaged over time."""

    def __init__(self):
        super().__init__(fc1=nn.Linear(2, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(self.fc1(x.reshape(len(x), 3, 2)).relu()).mean(1)


class Tokens(Layers):
    """A network that reads whole numbers."""

    def __init__(self):
        super().__init__(embed=nn.Embedding(7, 6), fc1=nn.Linear(6, 5), fc2=nn.Linear(5, 3))

    def forward(self, x):
        return self.fc2(self.fc1(self.embed(x)).relu())


def sequential(*between):
    """Two linear layers with something between them."""
    return nn.Sequential(nn.Linear(6, 5), *between, nn.Linear(5, 3))
