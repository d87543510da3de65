"""Small networks whose features mix, branch, or are used in ways that a naive tracer gets wrong."""

import torch
from torch import nn
from torch.nn import functional


class Layers(nn.Module):
    """Keeps the layers it is given under their names; subclasses only say how they are used."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


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
