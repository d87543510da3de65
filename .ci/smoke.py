"""What a wheel must be able to do, away from the checkout."""

import importlib.resources
import sys

import torch

from l0bayes import HardConcrete, compact, gate_table, sparsify
from l0bayes.inference import HardConcreteGuide, TensorBatches, fit, predict
from l0bayes.models import MLP, Classifier

if "site-packages" not in (sys.modules["l0bayes"].__file__ or ""):
    raise SystemExit("l0bayes was imported from somewhere else than the wheel")
if not (importlib.resources.files("l0bayes") / "py.typed").is_file():
    raise SystemExit("the wheel lacks py.typed")

torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.randint(3, (64,))
model = Classifier(sparsify(MLP(8, 16, 3), x[:2]), num_data=64)
guide = HardConcreteGuide(model)
fit(model, guide, TensorBatches(x, y, 16, shuffle=True), epochs=2, progress=False)
small = compact(model, guide)
torch.testing.assert_close(small(x), predict(model, guide, x), atol=1e-5, rtol=1e-5)
print(len(gate_table(guide)), "gates;", HardConcrete(0.0).prob_zero.item(), "; the wheel works")
