"""Stored answers of transformers (tests/golden/make_model.py), for runs without torch."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.golden import make_model
from torl_jax.model import hf
from torl_jax.model.transformer import Transformer

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
ADVICE = (
    "the stored values are torch's: if only our code has changed, it is wrong. If "
    "tests/golden/make_model.py has changed on purpose, run `python -m tests.golden.make_model` "
    "with the parity extra installed and say why in the commit"
)


@pytest.fixture(scope="module", params=list(make_model.KINDS))
def golden(request, tmp_path_factory):
    """(arrays of the file, the folder with its model)."""
    with np.load(GOLDEN / f"model_{request.param}.npz") as file:
        arrays = dict(file)
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "config.json").write_text(str(arrays["config"]))
    weights = {k.removeprefix("weight:"): x for k, x in arrays.items() if k.startswith("weight:")}
    safetensors.numpy.save_file(weights, folder / hf.SINGLE)
    return arrays, *hf.load(folder)


def test_logits(golden, logits):
    arrays, shape, params = golden
    got = logits(params, arrays["tokens"], model=Transformer(shape))
    np.testing.assert_allclose(got, arrays["logits"], atol=1e-4, rtol=0, err_msg=ADVICE)


def test_greedy_continuation(golden, greedy):
    arrays, shape, params = golden
    wanted = arrays["continuation"].tolist()
    assert len(wanted) == 64
    got = greedy(shape, params, arrays["tokens"][0].tolist(), len(wanted))
    assert got == wanted, ADVICE
