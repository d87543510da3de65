"""Networks of transformers as they are: tiny configurations with random weights, keyword inputs and masks."""

import re
from pathlib import Path

import pytest
import torch

from l0bayes import compact, sparsify
from l0bayes.errors import StructureError
from l0bayes.inference import HardConcreteGuide, predict
from l0bayes.posterior.cost import cost
from l0bayes.testing import check_sparsify

transformers = pytest.importorskip("transformers")

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "hugging_face.md"
IDS = torch.randint(3, 90, (2, 8), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(2, 8, dtype=torch.int64)
MASK[1, 6:] = 0
TEXT = {"input_ids": IDS, "attention_mask": MASK}
IMAGES = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
SIZES = {
    "vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 99,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 4,
    "n_positions": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WHISPER = {
    "vocab_size": 99, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 8,
    "max_source_positions": 10, "max_target_positions": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip


def build(network, config, **options):
    torch.manual_seed(0)
    made = getattr(transformers, f"{config}Config")(**options)
    return getattr(transformers, f"{config}{network}")(made).eval()


# Name to the network, its inputs, and the sizes of its groups; those in braces are padded.
ZOO = {
    "Bert": ("ForSequenceClassification", SIZES, TEXT, {"query": 4, "intermediate.dense": 24, "pooler.dense": 16}),
    "Llama": ("ForCausalLM", {**SIZES, "num_key_value_heads": 2}, TEXT, {"q_proj": 2, "gate_proj": 24}),
    "Qwen2": ("ForCausalLM", {**SIZES, "num_key_value_heads": 2}, {"input_ids": IDS}, {"q_proj": 2, "gate_proj": 24}),
    "GPT2": ("LMHeadModel", GPT2, TEXT, {"c_attn": 4, "c_fc": 64}),
    "ViT": (
        "ForImageClassification", {**SIZES, "image_size": 16, "patch_size": 8}, IMAGES, {"q_proj": 4, "fc1": 24},
    ),
}  # fmt: skip
PADDED = {"GPT2": {"c_attn"}}


@pytest.mark.parametrize("name", ZOO)
def test_masked_run_and_compacted_networks_agree(name):
    network, options, inputs, sizes = ZOO[name]
    sparse = check_sparsify(build(network, name, **options), inputs)
    found = {group.name.removesuffix(".unit"): group for group in sparse.groups}
    assert len(found) == len(sizes)
    for end, size in sizes.items():
        (group,) = [group for layer, group in found.items() if layer.endswith(end)] or [None]
        assert group is not None, found.keys()
        assert group.size == size
        assert bool(group.padded) == (end in PADDED.get(name, ()))


@pytest.mark.parametrize("name", ZOO)
def test_norms_over_live_features_let_the_stream_have_gates(name):
    network, options, inputs, sizes = ZOO[name]
    untied = {**options, "tie_word_embeddings": False} if name == "GPT2" else options  # what is shared has no gates
    sparse = check_sparsify(
        build(network, name, **untied), inputs, norms="live", tolerance=1e-4
    )  # some norm in float32
    streams = [group for group in sparse.groups if group.normalised]
    assert [group.size for group in streams] == [16]
    assert len(sparse.groups) == len(sizes) + 1
    assert set(sparse.structure.dense) <= {"lm_head", "classifier", "score"}


def test_an_encoder_and_a_decoder():
    net = build("ForConditionalGeneration", "Whisper", **WHISPER)
    inputs = {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": IDS[:, :5]}
    sparse = check_sparsify(net, inputs)
    attentions = [group for group in sparse.groups if "k_proj" in group.name]
    assert [group.size for group in attentions] == [4, 4, 4]
    assert all(group.padded for group in attentions)


def test_a_mask_of_ones_gives_the_groups_that_one_with_zeros_does():
    both = [
        sparsify(build("ForSequenceClassification", "Bert", **SIZES), {"input_ids": IDS, "attention_mask": mask})
        for mask in (MASK, torch.ones_like(MASK))
    ]
    assert [(g.name, g.size) for g in both[0].groups] == [(g.name, g.size) for g in both[1].groups]
    guide = HardConcreteGuide(both[1])
    small = compact(both[1], guide)
    with torch.no_grad():
        for mask in (MASK, torch.ones_like(MASK)):
            inputs = {"input_ids": IDS, "attention_mask": mask}
            found = predict(both[1], guide, inputs, output="logits")
            torch.testing.assert_close(small(**inputs).logits, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "layer"), [("Llama", "q_proj"), ("GPT2", "c_attn")])
def test_a_compacted_network_generates_with_its_cache_what_it_does_without(name, layer):
    network, options, _, _ = ZOO[name]
    sparse = sparsify(build(network, name, **options), {"input_ids": IDS})
    guide = HardConcreteGuide(sparse)
    with torch.no_grad():
        for group in sparse.groups:
            guide.parameter(f"log_alpha.{group.name}").copy_(torch.linspace(-5, 5, group.size))
    small = compact(sparse, guide)
    assert cost(small, {"input_ids": IDS}).parameters < cost(sparse.net, {"input_ids": IDS}).parameters
    assert any(layer in group.name for group in sparse.groups)
    with_cache, without = (
        small.generate(IDS[:, :4], max_new_tokens=6, do_sample=False, use_cache=use, pad_token_id=0)
        for use in (True, False)
    )
    assert torch.equal(with_cache, without)


def test_an_example_with_a_cache_is_refused():
    net = build("ForCausalLM", "Llama", **SIZES)
    cache = net(IDS, use_cache=True).past_key_values
    with pytest.raises(StructureError, match="'past_key_values' is a DynamicCache, which grows with each call"):
        sparsify(net, {"input_ids": IDS, "past_key_values": cache})


def test_a_mask_of_another_shape_is_refused():
    net = build("ForSequenceClassification", "Bert", **SIZES)
    with pytest.raises(StructureError, match=r"'attention_mask' must have an entry for each of 'input_ids', \(2, 8\)"):
        sparsify(net, {"input_ids": IDS, "attention_mask": MASK[:, :5]})


def test_an_example_without_its_inputs_is_refused():
    net = build("ForSequenceClassification", "Bert", **SIZES)
    with pytest.raises(StructureError, match=r"example_input: .* does not run on 'attention_mask' \(2, 8\)"):
        sparsify(net, {"attention_mask": MASK})


def test_the_pages_code_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})  # noqa: S102 (our own page)
    shown = capsys.readouterr().out
    assert "attention.self.query.unit" in shown
    assert "padded" in shown
