"""Several threads of one process: what would disturb each other takes turns, or is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from drawn import fit
from toy_problem import Surprise, assert_equal_states, blobs, classifier, loader, pair, state

from l0bayes import sparsify, to_arviz
from l0bayes.errors import ThreadError
from l0bayes.inference import HardConcreteGuide, evaluate, predict
from l0bayes.models import MLP
from l0bayes.threads import one_thread

X, _ = blobs()


def trained(batches):
    model, guide = pair()
    fit(model, guide, batches, epochs=2, progress=False)
    return state(model, guide)


def in_another_thread(call):
    """What it returns or raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


model, guide = pair()
net = MLP(6, 3)
CALLS = {
    "fit": lambda: fit(model, guide, loader(), epochs=1, progress=False),
    "predict": lambda: predict(model, guide, X),
    "evaluate": lambda: evaluate(model, guide, loader(shuffle=False)),
    "HardConcreteGuide": lambda: HardConcreteGuide(model),
    "sparsify": lambda: sparsify(net, X),
    "to_arviz": lambda: to_arviz(guide, num_samples=2, data=blobs()),
}


@pytest.mark.parametrize("name", CALLS)
def test_while_another_thread_trains(name):
    """A clear error for the one, and nothing for the other."""
    refused = []

    def disturb():
        with pytest.raises(ThreadError, match=r"another thread of this process is in fit.*a process of its own"):
            in_another_thread(CALLS[name])
        refused.append(name)

    torch.manual_seed(1)
    expected = trained(loader())
    torch.manual_seed(1)
    assert_equal_states(trained(Surprise(loader(), 2, disturb)), expected)
    assert refused == [name]


def test_many_threads_that_train():
    """Each is done alone or refused; none fails in another way, or with a result of its own."""
    expected = trained(loader())
    starts = threading.Barrier(6)

    def attempt(_):
        starts.wait()
        try:
            return trained(loader())
        except ThreadError:
            return None

    with ThreadPoolExecutor(6) as pool:
        ends = [end for end in pool.map(attempt, range(6)) if end is not None]
    assert ends
    assert all(end.keys() == expected.keys() for end in ends)
    in_another_thread(CALLS["fit"])  # nothing is left locked


def test_predictions_take_turns():
    """A network in training mode, with dropout, is in evaluation mode in each of them, and in training mode after."""
    torch.manual_seed(0)
    sparse = sparsify(MLP(6, 32, 3, dropout=0.5), X, gates="unit")
    own = HardConcreteGuide(sparse)
    sparse.train()
    expected = predict(sparse, own, X)
    with ThreadPoolExecutor(6) as pool:
        outputs = list(pool.map(lambda _: predict(sparse, own, X), range(60)))
    assert all(torch.equal(output, expected) for output in outputs)
    assert all(module.training for module in sparse.modules())


def test_a_run_waits_for_what_is_short():
    inside, leave = threading.Event(), threading.Event()

    def short():
        with one_thread("predict"):
            inside.set()
            leave.wait(20)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(short)
        assert inside.wait(20)
        second = pool.submit(CALLS["fit"])
        assert not second.done()
        leave.set()
        first.result()
        assert len(second.result().history) == 1


def test_calls_within_a_call():
    with one_thread("fit", run=True), one_thread("fit", run=True), one_thread("predict"):
        predict(classifier(), HardConcreteGuide(classifier()), X)
    with pytest.raises(ZeroDivisionError), one_thread("fit", run=True):
        raise ZeroDivisionError
    in_another_thread(CALLS["predict"])
