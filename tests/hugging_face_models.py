"""Small models of Hugging Face with random weights, all rates above 0."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WIDE = SIZE | {"num_attention_heads": 4}
"""With twice as many heads as keys and values have."""
IDS = torch.arange(16).view(2, 8)
TEXT = {"input_ids": IDS}
IMAGE = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}

Model = tuple[Callable[..., nn.Module], Mapping[str, Tensor]]


def _model(kind: Any, config: Any, inputs: Mapping[str, Tensor], **settings: Any) -> Model:
    def make(**more: Any) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = kind(config(**settings, **more))
        return model.train()

    return make, inputs


MODELS: dict[str, Model] = {
    "gpt2": _model(
        hf.GPT2LMHeadModel, hf.GPT2Config, TEXT,
        vocab_size=99, n_positions=16, n_embd=32, n_layer=2, n_head=2, **NO_TOKENS,
    ),
    "llama": _model(
        hf.LlamaForCausalLM, hf.LlamaConfig, TEXT, vocab_size=99, num_key_value_heads=2, attention_dropout=0.1, **WIDE
    ),
    "qwen2": _model(
        hf.Qwen2ForCausalLM, hf.Qwen2Config, TEXT, vocab_size=99, num_key_value_heads=2, attention_dropout=0.1, **SIZE
    ),
    "bert": _model(hf.BertForSequenceClassification, hf.BertConfig, TEXT, vocab_size=99, **SIZE),
    "distilbert": _model(
        hf.DistilBertForSequenceClassification, hf.DistilBertConfig, TEXT,
        vocab_size=99, dim=32, n_layers=2, n_heads=2, hidden_dim=64,
    ),
    "vit": _model(
        hf.ViTForImageClassification, hf.ViTConfig, IMAGE,
        image_size=32, patch_size=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, **SIZE,
    ),
    "t5": _model(
        hf.T5ForConditionalGeneration, hf.T5Config, {"input_ids": IDS, "labels": IDS},
        vocab_size=99, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0,
    ),
    "gpt_neox": _model(
        hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, TEXT,
        vocab_size=99, hidden_dropout=0.1, attention_dropout=0.1, **SIZE, **NO_TOKENS,
    ),
    "opt": _model(
        hf.OPTForCausalLM, hf.OPTConfig, TEXT,
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, layerdrop=0.0,
        max_position_embeddings=32, word_embed_proj_dim=32, attention_dropout=0.1,
    ),
    "persimmon": _model(
        hf.PersimmonForCausalLM, hf.PersimmonConfig, TEXT,
        vocab_size=99, hidden_dropout=0.1, attention_dropout=0.1, **SIZE, **NO_TOKENS,
    ),
    "data2vec_vision": _model(
        hf.Data2VecVisionForImageClassification, hf.Data2VecVisionConfig, IMAGE,
        image_size=32, patch_size=16, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, **SIZE,
    ),
}  # fmt: skip
"""How to make a model, and what it is called with. Persimmon and data2vec read rates from their configs."""
