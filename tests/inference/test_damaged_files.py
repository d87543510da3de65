"""Files that were changed on their way: whatever is changed, no other numbers are loaded."""

import json
import random
from functools import cache

import pytest
import torch
from drawn import fit
from saved_networks import SIZES, gated, small_network
from toy_problem import assert_equal_states, loader, pair, state

from l0bayes.errors import FileFormatError
from l0bayes.inference import load, save
from l0bayes.inference.storage.checkpoint import Progress, load_checkpoint
from l0bayes.models import MLP

MUTATIONS = 300


def header_of(content):
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def flipped_bit(content, draw):
    position = draw.randrange(len(content))
    return content[:position] + bytes([content[position] ^ (1 << draw.randrange(8))]) + content[position + 1 :]


def other_byte(content, draw):
    position = draw.randrange(len(content))
    return content[:position] + draw.randbytes(1) + content[position + 1 :]


def shortened(content, draw):
    return content[: draw.randrange(len(content))]


def lengthened(content, draw):
    return content + draw.randbytes(draw.choice([1, 8, 400]))


def hole(content, draw):
    """A block of a disk that reads as zeros."""
    start = draw.randrange(len(content))
    length = min(draw.choice([4, 64, 512]), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def moved_block(content, draw):
    start, end = sorted(draw.sample(range(8, len(content)), 2))
    return content[:start] + content[end:] + content[start:end]


def swapped_entries(content, draw):
    """Two tensors of one size under each other's names, or of each other's shapes and types."""
    header, data = header_of(content)
    one, other = draw.sample([name for name in header if name != "__metadata__"], 2)
    header[one], header[other] = header[other], header[one]
    return with_header(header, data)


def renamed(content, draw):
    header, data = header_of(content)
    name = draw.choice(list(header))
    return with_header({(key + "x" if key == name else key): value for key, value in header.items()}, data)


def other_type(content, draw):
    header, data = header_of(content)
    name = draw.choice([name for name in header if name != "__metadata__"])
    header[name]["dtype"] = {"F32": "I32", "I64": "F64", "F64": "I64"}.get(header[name]["dtype"], "I8")
    return with_header(header, data)


def other_shape(content, draw):
    header, data = header_of(content)
    name = draw.choice([name for name in header if name != "__metadata__"])
    header[name]["shape"] = header[name]["shape"][::-1] or [1]
    return with_header(header, data)


def other_fact(content, draw):
    header, data = header_of(content)
    key = draw.choice(list(header["__metadata__"]))
    text = header["__metadata__"][key]
    position = draw.choice([i for i, letter in enumerate(text) if letter.isalnum()])
    letter = draw.choice("0123456789abcdef")
    header["__metadata__"][key] = text[:position] + letter + text[position + 1 :]
    return with_header(header, data)


def missing_fact(content, draw):
    header, data = header_of(content)
    facts = json.loads(header["__metadata__"]["l0bayes"])
    del facts[draw.choice(list(facts))]
    header["__metadata__"]["l0bayes"] = json.dumps(facts)
    return with_header(header, data)


def missing_entry(content, draw):
    header, data = header_of(content)
    within = draw.choice([header, header["__metadata__"]])
    del within[draw.choice(list(within))]
    return with_header(header, data)


KINDS = [
    *(flipped_bit, other_byte, shortened, lengthened, hole, moved_block, swapped_entries, renamed),
    *(other_type, other_shape, other_fact, missing_fact, missing_entry),
]


def network(folder):
    path = save(small_network(), folder / "network.safetensors")
    return path, lambda file: load(file, MLP(*SIZES)).state_dict()


def guide(folder):
    _, trained = gated()
    fresh = cache(lambda: gated(seed=1)[1])
    return save(trained, folder / "guide.safetensors"), lambda file: load(file, fresh()).state_dict()


def checkpoint(folder):
    def run(model, guide):
        return {"model": model, "guide": guide}, torch.optim.Adam([*model.parameters(), *guide.parameters()])

    modules = pair()
    optimizer = run(*modules)[1]
    fit(*modules, loader(), epochs=1, optimizer=optimizer, checkpoint=folder / "run", progress=False)
    return folder / "run", lambda file: loaded_checkpoint(file, *run(*modules))


def loaded_checkpoint(file, modules, optimizer):
    progress = load_checkpoint(file, modules, optimizer)
    assert isinstance(progress, Progress)
    numbers = torch.tensor([progress.epoch, progress.history[0]["elbo"]], dtype=torch.float64)
    moments = torch.cat([value.flatten() for entry in optimizer.state.values() for value in entry.values()])
    return state(*modules.values()) | {"progress": numbers, "moments": moments}


@pytest.mark.parametrize("make", [network, guide, checkpoint])
def test_no_other_numbers_are_loaded(make, tmp_path):
    path, load_file = make(tmp_path)
    content, draw = path.read_bytes(), random.Random(5)  # noqa: S311
    expected = {name: value.clone() for name, value in load_file(path).items()}
    damaged = tmp_path / "damaged"
    unchanged = 0
    for number in range(MUTATIONS):
        mutated = KINDS[number % len(KINDS)](content, draw)
        damaged.write_bytes(mutated)
        try:
            found = load_file(damaged)
        except FileFormatError as error:
            assert str(damaged) in str(error)  # noqa: PT017 (most raise, a few that change nothing do not)
        else:
            unchanged += 1
            assert_equal_states(found, expected)
    assert unchanged < MUTATIONS / 10
