"""A network of named layers, used as a function says."""

from torch import nn


class Net(nn.Module):
    """Layers by name, and how they are used."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)
