"""The live comparison with transformers, a family at a time, both ways through the files."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from tests.golden import make_model
from torl_jax.model import hf
from torl_jax.model.transformer import Transformer

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=list(make_model.KINDS))
def theirs(request):
    return make_model.build(request.param, seed=11)


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """(shape, params) of what transformers saved."""
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    return hf.load(folder)


TOKENS = np.random.default_rng(3).integers(0, 61, (3, 40))


def close(a, b):
    np.testing.assert_allclose(a, b, atol=1e-4, rtol=0)


def test_saved_by_transformers_logits_are_equal(theirs, ours, logits):
    shape, params = ours
    close(logits(params, TOKENS, model=Transformer(shape)), make_model.logits(theirs, TOKENS))


def test_greedy_continuation_is_equal(theirs, ours, greedy):
    prompt = TOKENS[1, :17].tolist()
    wanted, _ = make_model.continuation(theirs, prompt, 64)
    assert greedy(*ours, prompt, 64) == wanted


@pytest.mark.parametrize(
    ("shard_bytes", "eos"), [(10**9, ()), (10**9, (5,)), (10**9, (5, 7)), (4000, (5,))]
)
def test_saved_by_us_transformers_loads(ours, logits, tmp_path, shard_bytes, eos):
    shape, params = ours
    hf.save(tmp_path, dataclasses.replace(shape, eos_ids=eos), params, shard_bytes=shard_bytes)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float32
    )
    assert not any(report.values()), report
    close(make_model.logits(model, TOKENS), logits(params, TOKENS, model=Transformer(shape)))
    ids = torch.from_numpy(TOKENS[:1, :5])
    assert model.generate(ids, max_new_tokens=3, do_sample=False).shape[1] > 5


def test_shards_of_transformers_load(theirs, ours, tmp_path):
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert (tmp_path / hf.INDEX).is_file()
    jax.tree.map(np.testing.assert_array_equal, hf.load(tmp_path)[1], ours[1])


def test_bfloat16_of_transformers_loads(theirs, ours, tmp_path):
    copy.deepcopy(theirs).to(torch.bfloat16).save_pretrained(tmp_path)
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype(np.float32), ours[1])
    jax.tree.map(np.testing.assert_array_equal, hf.load(tmp_path)[1], rounded)
