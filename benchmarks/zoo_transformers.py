"""Networks of transformers, as they come: keyword inputs, masks, random weights; can they be gated, and exactly?

Small configurations, so that shares say something of the structure and not of the size of a vocabulary: of the
parameters outside of embeddings and output layers, the share ``gated`` is under gates. ``difference`` is relative to the
largest output, of ``run`` and of the ``compact`` network from the masked one, in float64 where the network runs in it.
"""
# ruff: noqa: E501 (a table, with a network a line)

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from record import record
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l0bayes import SparseModule, sparsify
from l0bayes.subnetwork.compacted import compact_network
from l0bayes.subnetwork.masked import masked_weights

SEED = 0
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
_DECODER = {**_TEXT, **_SPECIAL}
_GROUPED = {**_DECODER, "num_key_value_heads": 2}
_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_GPT = {"vocab_size": 99, "hidden_size": 32, **_SPECIAL}
_BOTH = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, **_SPECIAL,
    "decoder_start_token_id": 1,
}  # fmt: skip
_CLASSES, _CAUSAL, _IMAGES = "ForSequenceClassification", "ForCausalLM", "ForImageClassification"

# Name of the configuration, the rest of the network's, the options, and the kind of its inputs.
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "bert": ("Bert", _CLASSES, _TEXT, "text"),
    "roberta": ("Roberta", _CLASSES, _TEXT, "text"),
    "distilbert": ("DistilBert", _CLASSES, {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 32}, "text"),
    "electra": ("Electra", _CLASSES, {**_TEXT, "embedding_size": 24}, "text"),
    "albert": ("Albert", _CLASSES, {**_TEXT, "embedding_size": 24}, "text"),
    "deberta-v2": ("DebertaV2", _CLASSES, _TEXT, "text"),
    "mpnet": ("MPNet", _CLASSES, _TEXT, "text"),
    "modernbert": ("ModernBert", _CLASSES, {**_TEXT, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}, "text"),
    "mobilebert": ("MobileBert", _CLASSES, {**_TEXT, "embedding_size": 24, "intra_bottleneck_size": 16, "true_hidden_size": 16}, "text"),
    "squeezebert": ("SqueezeBert", _CLASSES, {**_TEXT, "embedding_size": 32}, "text"),
    "funnel": ("Funnel", _CLASSES, {"vocab_size": 99, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "num_decoder_layers": 1}, "text"),
    "xlnet": ("XLNet", _CLASSES, {"vocab_size": 99, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, "text"),
    "fnet": ("FNet", _CLASSES, {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}, "ids"),
    "gpt2": ("GPT2", "LMHeadModel", {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, **_SPECIAL}, "text"),
    "gpt-neo": ("GPTNeo", _CAUSAL, {**_GPT, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_position_embeddings": 32, "attention_types": [[["global", "local"], 1]]}, "text"),
    "gpt-neox": ("GPTNeoX", _CAUSAL, _DECODER, "text"),
    "opt": ("OPT", _CAUSAL, {**_GPT, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 32, "word_embed_proj_dim": 32}, "text"),
    "bloom": ("Bloom", _CAUSAL, {**_GPT, "n_layer": 2, "n_head": 4}, "text"),
    "falcon": ("Falcon", _CAUSAL, {**_GPT, "num_hidden_layers": 2, "num_attention_heads": 4}, "text"),
    "llama": ("Llama", _CAUSAL, _GROUPED, "text"),
    "mistral": ("Mistral", _CAUSAL, _GROUPED, "text"),
    "qwen2": ("Qwen2", _CAUSAL, _GROUPED, "text"),
    "qwen3": ("Qwen3", _CAUSAL, {**_GROUPED, "head_dim": 8}, "text"),
    "gemma": ("Gemma", _CAUSAL, {**_GROUPED, "head_dim": 8}, "text"),
    "phi": ("Phi", _CAUSAL, _DECODER, "text"),
    "mixtral": ("Mixtral", _CAUSAL, {**_GROUPED, "num_local_experts": 2, "num_experts_per_tok": 2}, "text"),
    "mamba": ("Mamba", _CAUSAL, {**_GPT, "num_hidden_layers": 2, "state_size": 4}, "ids"),
    "t5": ("T5", "ForConditionalGeneration", {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}, "pair"),
    "bart": ("Bart", "ForConditionalGeneration", {**_BOTH, "max_position_embeddings": 32}, "pair"),
    "whisper": ("Whisper", "ForConditionalGeneration", {**_BOTH, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 20}, "sound"),
    "wav2vec2": ("Wav2Vec2", _CLASSES, {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "conv_dim": (16, 16), "conv_stride": (4, 2), "conv_kernel": (6, 3), "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 24, "mask_time_prob": 0.0}, "wave"),
    "vit": ("ViT", _IMAGES, _IMAGE, "images"),
    "deit": ("DeiT", _IMAGES, _IMAGE, "images"),
    "beit": ("Beit", _IMAGES, _IMAGE, "images"),
    "dinov2": ("Dinov2", _IMAGES, {**_IMAGE, "mlp_ratio": 2}, "images"),
    "clip-vision": ("CLIPVision", "Model", _IMAGE, "images"),
    "swin": ("Swin", _IMAGES, {"image_size": 16, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, "images"),
    "segformer": ("Segformer", _IMAGES, {"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [16, 32], "patch_sizes": [3, 3], "strides": [2, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2], "decoder_hidden_size": 32}, "images"),
    "convnext": ("ConvNext", _IMAGES, {"hidden_sizes": [16, 24], "depths": [1, 1], "num_stages": 2, "patch_size": 2}, "images"),
    "resnet": ("ResNet", _IMAGES, {"embedding_size": 16, "hidden_sizes": [16, 24], "depths": [1, 1], "layer_type": "basic"}, "images"),
}  # fmt: skip


def inputs_of(kind: str) -> dict[str, Tensor]:
    """Keyword inputs of two rows; a third of the second row of a text is padding."""
    torch.manual_seed(SEED)
    ids = torch.randint(3, 90, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    kinds = {
        "text": {"input_ids": ids, "attention_mask": mask},
        "ids": {"input_ids": ids},
        "pair": {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :5]},
        "sound": {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": ids[:, :5]},
        "wave": {"input_values": torch.randn(2, 400)},
        "images": {"pixel_values": torch.randn(2, 3, 16, 16)},
    }
    return kinds[kind]


def build(name: str) -> nn.Module:
    """A network in evaluation mode, the same each time."""
    import transformers  # noqa: PLC0415 (slow, and not for those who only read the table)

    kind, rest, options, _ = MODELS[name]
    torch.manual_seed(SEED)
    config = getattr(transformers, f"{kind}Config")(**options)
    net: nn.Module = getattr(transformers, f"{kind}{rest}")(config).eval()
    return net


def _counted(net: nn.Module) -> list[str]:
    """Parameters outside of embeddings and of the last layer, which have a row for each word or class."""
    whole = {id(p) for m in net.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    heads = ("lm_head", "classifier", "embed_out", "proj_out", "logits_proj")
    return [n for n, p in net.named_parameters() if id(p) not in whole and n.split(".")[0] not in heads]


def gated_share(sparse: SparseModule) -> float:
    """Share of the parameters that count that is under gates."""
    total = under = 0
    for name in _counted(sparse.net):
        shape = sparse.structure.shapes[name]
        free = [torch.ones(size, dtype=torch.bool) for size in shape]
        for part in (part for group in sparse.groups for part in group.slices if part.tensor == name):
            if part.dim is not None:
                free[part.dim] &= part.gates < 0
        left = 1
        for one in free:
            left *= int(one.sum())
        total, under = total + shape.numel(), under + shape.numel() - left
    return under / total


def _difference(found: Any, wanted: Any) -> float:
    pairs = zip(tree_leaves(found), tree_leaves(wanted), strict=True)
    return max(
        float((x - y).abs().max() / y.abs().max().clamp(min=1e-30))
        for x, y in pairs
        if isinstance(x, Tensor) and y.is_floating_point()
    )


def _agreement(sparse: SparseModule, inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, float]:
    generator = torch.Generator().manual_seed(SEED)
    net = sparse.to(dtype).child("net")
    given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    gates = {}
    for group in sparse.groups:
        u, v = torch.rand(2, group.size, generator=generator, dtype=torch.float64)
        gates[group.name] = ((0.5 + v).clamp(max=1.0) * (u <= u.sort().values[(group.size - 1) // 2])).to(dtype)
    wanted = torch.func.functional_call(net, masked_weights(net, sparse.groups, gates), (), given, tie_weights=False)
    found = sparse.run(gates, **given)
    small = compact_network(net, sparse.groups, gates)(**given)
    return {"run": _difference(found, wanted), "compact": _difference(small, wanted)}


@torch.no_grad()
def measure(name: str) -> dict[str, Any]:
    """Puts gates on a network, and compares all ways to run it."""
    net, inputs = build(name), inputs_of(MODELS[name][3])
    start = time.perf_counter()
    sparse = sparsify(net, inputs)
    seconds = time.perf_counter() - start
    try:
        error, precision = _agreement(sparse, inputs, torch.float64), "float64"
    except RuntimeError:  # it insists on float32
        error, precision = _agreement(sparse, inputs, torch.float32), "float32"
    padded = [group.name for group in sparse.groups if getattr(group, "padded", None)]
    return {
        "sparsify_seconds": round(seconds, 2),
        "groups": len(sparse.groups),
        "padded": len(padded),
        "gates": sum(group.size for group in sparse.groups),
        "gated": round(gated_share(sparse), 3),
        "difference": error,
        "precision": precision,
        "dense_reasons": dict(Counter(reason[:90] for reason in sparse.structure.dense.values()).most_common(4)),
    }


def measured(name: str) -> dict[str, Any]:
    """What :func:`measure` finds, or ``{"error": …}``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return measure(name)
    except Exception as error:  # noqa: BLE001 (whatever it says is the result)
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def table(results: Mapping[str, Any]) -> str:
    """All networks as a Markdown table."""
    heads = "model", "sparsify, s", "groups", "padded", "gates", "gated", "run", "compact"
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, found in results.items():
        if "error" in found:
            lines.append(f"| {name} | {found['error']} " + "| " * 6 + "|")
            continue
        run, small = (f"{found['difference'][way]:.0e}" for way in ("run", "compact"))
        facts = (found[key] for key in ("sparsify_seconds", "groups", "padded", "gates", "gated"))
        note = "" if found["precision"] == "float64" else " (float32)"
        lines.append(f"| {name} | {' | '.join(map(str, facts))} | {run}{note} | {small}{note} |")
    fine = [found for found in results.values() if "error" not in found]
    mean = sum(found["gated"] for found in fine) / len(results)
    lines.append(f"\n{len(fine)} of {len(results)} gated; mean share under gates {mean:.3f}, 0 where refused.")
    return "\n".join(lines)


def main() -> None:
    """Measures networks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    options = parser.parse_args()
    results = {name: measured(name) for name in options.models}
    record("zoo_transformers", SEED, results, table(results))


if __name__ == "__main__":
    main()
