"""ModelConfig from published config.json files."""

import pytest

from tests.golden.make_model import published
from torl_jax.errors import UserError
from torl_jax.model import hf
from torl_jax.model.config import ModelConfig, RopeScaling

MATH_1P5B = published("qwen2.5-math-1.5b")
MATH_7B = MATH_1P5B | {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": 152064,
}

QWEN_32B = published("qwen2.5-32b")
QWEN3_0P6B = published("qwen3-0.6b")
LLAMA_1B = published("llama-3.2-1b")


def test_fields_of_1p5b():
    assert ModelConfig.from_hf(MATH_1P5B) == ModelConfig(
        vocab_size=151_936,
        d_model=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        head_dim=128,
        d_mlp=8960,
        rope_theta=10_000.0,
        norm_eps=1e-6,
        tied=True,
        qkv_bias=True,
        max_positions=4096,
        eos_ids=(151_643,),
    )


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (MATH_1P5B, 1_543_714_304),
        (MATH_7B, 7_615_616_512),
        (QWEN_32B, 32_763_876_352),
        (QWEN3_0P6B, 596_049_920),
        (LLAMA_1B, 1_235_814_400),
    ],
)
def test_parameter_counts(raw, count):
    """The published sizes; by the formula, and by adding up the table of weights."""
    config = ModelConfig.from_hf(raw)
    assert config.parameter_count == count
    added = 0
    for row in hf.table(config):
        size = 1
        for axis in row.published:
            size *= axis
        added += size * (config.layers if row.path[0] == "blocks" else 1)
    assert added == count


@pytest.mark.parametrize("raw", [MATH_1P5B, MATH_7B, QWEN3_0P6B, LLAMA_1B])
def test_round_trip(raw):
    config = ModelConfig.from_hf(raw)
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_transformers_5_nests_the_rope_base():
    raw = MATH_1P5B | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    del raw["rope_theta"]
    assert ModelConfig.from_hf(raw).rope_theta == 5e5
    nested = LLAMA_1B | {"rope_parameters": LLAMA_1B["rope_scaling"] | {"rope_theta": 5e5}}
    del nested["rope_theta"], nested["rope_scaling"]
    assert ModelConfig.from_hf(nested) == ModelConfig.from_hf(LLAMA_1B)


def test_differences_of_the_families():
    llama, qwen3 = ModelConfig.from_hf(LLAMA_1B), ModelConfig.from_hf(QWEN3_0P6B)
    assert (llama.qkv_bias, llama.qk_norm) == (False, False)
    assert llama.rope_scaling == RopeScaling(factor=32.0, low=1.0, high=4.0, original=8192)
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, True, 128)
    assert qwen3.rope_scaling is None


@pytest.mark.parametrize(("eos", "ids"), [(None, ()), (7, (7,)), ([7, 9], (7, 9))])
def test_ends_of_text(eos, ids):
    config = ModelConfig.from_hf(MATH_1P5B | {"eos_token_id": eos})
    assert config.eos_ids == ids
    assert config.to_hf()["eos_token_id"] == eos


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "supported: qwen2, qwen3, llama"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rope_type='yarn'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"num_key_value_heads": 5}, "12 query heads and 5 kv heads"),
        ({"hidden_size": 1500}, "head_dim is 125"),
        ({"hidden_size": 1538}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_hidden_layers": "28"}, "num_hidden_layers"),
        ({"vocab_size": None}, "vocab_size"),
        ({"intermediate_size": -1}, "intermediate_size"),
        ({"rope_theta": "big"}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    ],
)
def test_what_it_cannot_run_it_refuses_in_one_line(change, words):
    with pytest.raises(UserError) as error:
        ModelConfig.from_hf(MATH_1P5B | change)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["vocab_size", "num_key_value_heads", "intermediate_size"])
def test_a_missing_key_is_named(key):
    raw = {k: v for k, v in MATH_1P5B.items() if k != key}
    with pytest.raises(UserError, match=key):
        ModelConfig.from_hf(raw)
