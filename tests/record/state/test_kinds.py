from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models import VisionTransformer

from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.record.state.kinds import is_buffer, kind_of
from ckptlab.record.state.model_tensors import capture

# As the published checkpoints name them: tensor, dims, kind, part.
PUBLISHED = """
transformer.wte.weight 2 embedding -
transformer.wpe.weight 2 embedding -
transformer.h.0.ln_1.weight 1 norm -
transformer.h.0.ln_1.bias 1 norm -
transformer.h.0.attn.c_attn.weight 2 linear attention
transformer.h.0.attn.c_attn.bias 1 bias -
transformer.h.0.attn.c_proj.weight 2 linear attention
transformer.h.0.mlp.c_fc.weight 2 linear mlp
transformer.h.0.mlp.c_proj.weight 2 linear mlp
lm_head.weight 2 linear head
gpt_neox.embed_in.weight 2 embedding -
gpt_neox.layers.3.input_layernorm.weight 1 norm -
gpt_neox.layers.3.attention.query_key_value.weight 2 linear attention
gpt_neox.layers.3.attention.query_key_value.bias 1 bias -
gpt_neox.layers.3.attention.dense.weight 2 linear attention
gpt_neox.layers.3.mlp.dense_h_to_4h.weight 2 linear mlp
gpt_neox.layers.3.mlp.dense_4h_to_h.weight 2 linear mlp
gpt_neox.final_layer_norm.bias 1 norm -
gpt_neox.final_layer_norm.weight 1 norm -
embed_out.weight 2 linear head
model.embed_tokens.weight 2 embedding -
model.layers.10.self_attn.q_proj.weight 2 linear attention
model.layers.10.self_attn.o_proj.weight 2 linear attention
model.layers.10.self_attn.q_norm.weight 1 norm -
model.layers.10.mlp.gate_proj.weight 2 linear mlp
model.layers.10.mlp.down_proj.weight 2 linear mlp
model.layers.10.mlp.experts.gate_up_proj 3 linear mlp
model.layers.10.mlp.experts.down_proj 3 linear mlp
model.layers.10.mlp.gate.weight 2 linear mlp
model.layers.10.block_sparse_moe.experts.1.w1.weight 2 linear mlp
model.layers.10.post_attention_layernorm.weight 1 norm -
model.norm.weight 1 norm -
tok_embeddings.weight 2 embedding -
layers.2.attention.wq.weight 2 linear attention
layers.2.feed_forward.w1.weight 2 linear mlp
layers.2.ffn_norm.weight 1 norm -
output.weight 2 linear head
model.transformer.wte.weight 2 embedding -
model.transformer.blocks.4.att_proj.weight 2 linear attention
model.transformer.blocks.4.attn_out.weight 2 linear attention
model.transformer.blocks.4.ff_proj.weight 2 linear mlp
model.transformer.blocks.4.ff_out.weight 2 linear mlp
model.transformer.ff_out.weight 2 linear head
bert.embeddings.word_embeddings.weight 2 embedding -
bert.embeddings.token_type_embeddings.weight 2 embedding -
bert.embeddings.LayerNorm.gamma 1 norm -
bert.embeddings.LayerNorm.beta 1 norm -
bert.encoder.layer.0.attention.self.query.weight 2 linear attention
bert.encoder.layer.0.attention.output.dense.weight 2 linear attention
bert.encoder.layer.0.intermediate.dense.weight 2 linear mlp
bert.encoder.layer.0.output.dense.weight 2 linear mlp
bert.encoder.layer.0.output.dense.bias 1 bias -
bert.pooler.dense.weight 2 linear -
cls.predictions.bias 1 bias -
cls.predictions.transform.dense.weight 2 linear head
cls.predictions.decoder.weight 2 linear head
cls.seq_relationship.weight 2 linear head
vit.embeddings.cls_token 3 embedding -
vit.embeddings.position_embeddings 3 embedding -
vit.embeddings.patch_embeddings.projection.weight 4 conv -
vit.encoder.layer.1.layernorm_before.weight 1 norm -
vit.encoder.layer.1.attention.attention.query.weight 2 linear attention
vit.encoder.layer.1.output.dense.weight 2 linear mlp
classifier.weight 2 linear head
blocks.0.attn.qkv.weight 2 linear attention
blocks.0.attn.proj.weight 2 linear attention
blocks.0.mlp.fc1.weight 2 linear mlp
blocks.0.ls1.gamma 1 other -
pos_embed 3 embedding -
patch_embed.proj.weight 4 conv -
head.weight 2 linear head
params.Dense_0.kernel 2 linear -
params.Dense_0.bias 1 bias -
params.Conv_0.kernel 4 conv -
params.LayerNorm_0.scale 1 norm -
params.Embed_0.embedding 2 embedding -
layer1.0.conv1.weight 4 conv -
fc.weight 2 linear head
act.prelu.weight 1 other -
"""
ROWS = [tuple(line.split()) for line in PUBLISHED.strip().splitlines()]
STATE = {name: torch.ones([2] * int(ndim)) for name, ndim, _, _ in ROWS}


def test_tensors_of_published_families_have_their_kinds_and_parts():
    found = {t.name: (t.kind, t.part or "-") for t in layout_of(STATE).tensors}
    assert found == {name: (kind, part) for name, _, kind, part in ROWS}


def test_defaults_and_parts_select_what_they_say():
    layout = layout_of(STATE)

    def selected(*kinds):
        return {t.name for t, c in zip(layout.tensors, layout.select(kinds), strict=True) if c}

    parts = [{n for n, _, _, part in ROWS if part == name} for name in ("attention", "mlp", "head")]
    assert [selected("attention"), selected("mlp"), selected("head")] == parts
    assert set.union(*parts) < selected("conv", "linear")
    assert selected("head", "bias") == parts[2] | selected("bias")


def test_a_tied_head_is_the_embedding_whichever_name_comes_first():
    tied = torch.ones(3, 2)
    for names in (
        ("lm_head.weight", "model.embed_tokens.weight"),
        ("wte.weight", "lm_head.weight"),
    ):
        (tensor,) = layout_of(dict.fromkeys(names, tied)).tensors
        assert (tensor.kind, tensor.prunable) == ("embedding", False)


def test_names_tell_what_modules_tell():
    model = VisionTransformer(4, 2, 1, 2, 8, 16, num_classes=3)
    by_module = {t.name: (t.kind, t.layer, t.part) for t in capture(model).layout.tensors}
    by_name = {t.name: (t.kind, t.layer, t.part) for t in layout_of(model.state_dict()).tensors}
    assert by_name == by_module


class Reparametrized(nn.Module):
    def __init__(self):
        super().__init__()
        self.pruned = prune.l1_unstructured(nn.Conv2d(2, 3, 3), "weight", 0.5)
        self.normed = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
        self.old = nn.utils.weight_norm(nn.Linear(4, 3))
        self.spectral = parametrizations.spectral_norm(nn.Linear(4, 3))
        self.spectral_old = nn.utils.spectral_norm(nn.Linear(4, 3))


def test_masks_and_factors_are_no_weights():
    model = Reparametrized()
    recorded = capture(model).layout
    imported = layout_of({name: value.clone() for name, value in model.state_dict().items()})
    for layout in (recorded, imported):
        kinds = {t.name: t.kind for t in layout.tensors}
        assert kinds["pruned.weight_orig"] == "conv"
        assert kinds["normed.parametrizations.weight.original0"] == "other"
        assert kinds["normed.parametrizations.weight.original1"] == "conv"
        assert (kinds["old.weight_g"], kinds["old.weight_v"]) == ("other", "linear")
        assert kinds["spectral.parametrizations.weight.original"] == "linear"
        assert layout["normed.parametrizations.weight.original1"].layer == "normed"
    assert {t.name: t.kind for t in imported.tensors} == {t.name: t.kind for t in recorded.tensors}
    assert {b.name for b in imported.buffers} == {b.name for b in recorded.buffers}


@pytest.mark.parametrize("name", ["h.0.attn.bias", "rotary_emb.inv_freq", "attn.masked_bias"])
def test_constants_of_attention_are_buffers(name):
    state = {name: torch.ones(1, 1, 4, 4), "h.0.attn.c_attn.bias": torch.ones(3)}
    assert [is_buffer(each, state) for each in state] == [True, False]
    assert kind_of("h.0.attn.c_attn.bias", state) == "bias"


@pytest.mark.slow
def test_kinds_of_real_transformers():
    import transformers as library

    size = {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 13,
    }  # fmt: skip
    experts = {"num_experts": 3, "num_experts_per_tok": 1}
    for family, options in {
        "GPT2": {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 13},
        "GPTNeoX": size,
        "Llama": size,
        "Olmo2": size,
        "Olmoe": {**size, **experts},
        "Bert": size,
        "ViT": {**size, "image_size": 4, "patch_size": 2},
    }.items():
        config = getattr(library, f"{family}Config")(**options)
        found = next(
            getattr(library, f"{family}{end}")
            for end in ("LMHeadModel", "ForCausalLM", "ForImageClassification")
            if hasattr(library, f"{family}{end}")
        )
        model = found(config)
        by_module = {t.name: (t.kind, t.part) for t in capture(model).layout.tensors}
        by_name = {t.name: (t.kind, t.part) for t in layout_of(model.state_dict()).tensors}
        assert by_name == by_module, family
        parts = {part for _, part in by_name.values()}
        assert {"attention", "mlp"} <= parts, family
        for module, part in (("attn", "attention"), ("mlp", "mlp")):
            inside = [
                p for name, (kind, p) in by_name.items() if module in name and kind == "linear"
            ]
            assert set(inside) <= {part}, family
