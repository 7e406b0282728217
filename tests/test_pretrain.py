"""Packing loses nothing and mixes nothing; the shipped base is what its card says."""

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer

from torl_jax import gate, pretrain
from torl_jax.data import arithmetic, corpora, corpus, rows, vocabulary
from torl_jax.data.rows import Rows
from torl_jax.episode import Author
from torl_jax.errors import UserError
from torl_jax.gate import Digits
from torl_jax.model import hf
from torl_jax.model.config import ModelConfig
from torl_jax.model.transformer import initialise
from torl_jax.pretrain import Recipe

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "assets"
BOTH = pytest.mark.parametrize("corpus", corpora.CORPORA.values(), ids=lambda corpus: corpus.name)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [text for i in range(500) for _, text in corpus.document(0, i).pieces]
    return vocabulary.build(texts, min_frequency=5)


@pytest.fixture(scope="module")
def documents(tokenizer) -> list[rows.Encoded]:
    return [rows.encode(corpus.document(0, i), tokenizer) for i in range(60)]


@pytest.fixture(scope="module")
def model(tokenizer) -> tuple[ModelConfig, dict]:
    config = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=64,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=32,
        d_mlp=64,
        rope_theta=10_000.0,
        tied=True,
    )
    # Larger than at birth, so that attention to a wrong token would show.
    params = jax.jit(initialise, static_argnums=0)(config, jax.random.key(0))
    return config, jax.tree.map(lambda x: 5 * x, params)


def test_every_piece_is_encoded_alone_and_the_policy_ends_the_text(tokenizer):
    for style in ("direct", "code", *corpus.FLAWS):
        document = corpus.document(0, 3, style)
        encoded = rows.encode(document, tokenizer)
        alone = [tokenizer.encode(text).ids for _, text in document.pieces]
        alone[-1].append(tokenizer.token_to_id(vocabulary.END_OF_TEXT))
        assert encoded.ids == [i for ids in alone for i in ids]
        assert encoded.piece == [n for n, ids in enumerate(alone) for _ in ids]
        authors = [author for author, _ in document.pieces]
        assert encoded.authors == [authors[n] for n in encoded.piece]


def test_packing_keeps_every_document_whole_and_once(documents):
    batch, taken = rows.pack(documents, rows=6)
    assert 6 < taken < len(documents)
    found = []
    for row in range(6):
        segments = batch.segments_BT[row]
        for segment in range(1, segments.max() + 1):
            (where,) = np.nonzero(segments == segment)
            assert np.array_equal(where, np.arange(where[0], where[0] + len(where)))
            assert np.array_equal(batch.positions_BT[row, where], np.arange(len(where)))
            found.append((batch.tokens_BT[row, where].tolist(), batch.weight_BT[row, where]))
    assert sorted(ids for ids, _ in found) == sorted(d.ids for d in documents[:taken])
    learnt = {tuple(d.ids): [a is not Author.PROMPT for a in d.authors] for d in documents}
    assert all(np.array_equal(weight, learnt[tuple(ids)]) for ids, weight in found)
    assert not batch.weight_BT[batch.segments_BT == 0].any()


def test_a_document_longer_than_a_row_is_refused(documents):
    with pytest.raises(ValueError, match="does not fit a row of 8"):
        rows.pack(documents, rows=2, width=8)


def test_batches_read_the_corpus_in_order_and_never_twice(tokenizer):
    source = rows.batches(0, tokenizer, rows=4)
    batches = [next(source) for _ in range(3)]
    count = sum(int(b.segments_BT.max(axis=1).sum()) for b in batches)
    wanted = [rows.encode(corpus.document(0, i), tokenizer).ids for i in range(count)]
    seen = [
        b.tokens_BT[row, b.segments_BT[row] == s].tolist()
        for b in batches
        for row in range(4)
        for s in range(1, b.segments_BT[row].max() + 1)
    ]
    assert sorted(seen) == sorted(wanted)


def test_packed_and_alone_give_the_same_log_probs(model, documents):
    config, params = model
    logps_of = jax.jit(functools.partial(pretrain.token_logps, config, params))
    packed, taken = rows.pack(documents, rows=3)
    together = np.asarray(logps_of(packed))
    alone = {}
    for document in documents[:taken]:
        batch, _ = rows.pack([document], rows=1)
        logps = np.asarray(logps_of(batch))[0]
        alone[tuple(document.ids)] = logps[: len(document.ids) - 1]
    for row in range(3):
        for segment in range(1, packed.segments_BT[row].max() + 1):
            (where,) = np.nonzero(packed.segments_BT[row] == segment)
            ids = tuple(packed.tokens_BT[row, where].tolist())
            np.testing.assert_allclose(together[row, where[1:] - 1], alone[ids], atol=1e-4)


def test_the_loss_is_the_mean_over_learnt_tokens_only(model, documents):
    config, params = model
    batch, _ = rows.pack(documents, rows=2)
    loss_of = jax.jit(functools.partial(pretrain.loss_of, config, params))
    logps = np.asarray(jax.jit(functools.partial(pretrain.token_logps, config, params))(batch))
    weight = batch.weight_BT[:, 1:]
    loss = float(loss_of(batch))
    assert loss == pytest.approx(-float(logps[weight > 0].mean()), rel=1e-5)
    tokens, positions, segments, weights = (np.concatenate([x, x]) for x in batch)
    doubled = Rows(tokens, positions, segments, weights)
    assert float(loss_of(doubled)) == pytest.approx(loss, rel=1e-5)


def test_the_blocks_weights_start_at_the_size_asked_for_and_nothing_else_changes(model):
    config, _ = model
    own = initialise(config, jax.random.key(0))
    same, large = (pretrain.initial(config, Recipe(init=size)) for size in (0.02, 0.08))
    jax.tree.map(np.testing.assert_array_equal, same, own)
    grown = {"attention", "mlp"}
    for name, part in own["blocks"].items():
        times = 4 if name in grown else 1
        jax.tree.map(
            lambda x, y, times=times: np.testing.assert_allclose(y, times * x, rtol=1e-6),
            part,
            large["blocks"][name],
        )
    assert grown < set(own["blocks"])
    np.testing.assert_array_equal(large["embed_VD"], own["embed_VD"])


def test_the_gate_names_every_cell_below_it_and_no_other():
    good, poor = Digits(0.95, 0.5), Digits(0.89, 0.99)
    table = {"gcd": {"code": good, "box": poor}, "sum": {"code": good, "box": good}}
    assert gate.failures(table, 0.9) == ["gcd box 0.89"]


def test_an_untrained_model_fails_the_gate(model, tokenizer, monkeypatch):
    monkeypatch.setattr(gate, "DOCUMENTS", 4)
    config, params = model
    table = gate.measure(config, params, tokenizer)
    assert len(gate.failures(table, corpora.ARITHMETIC.needed)) == 2 * len(arithmetic.FAMILIES)


def test_the_gate_of_calls_has_a_column_a_part_and_none_where_nothing_is_called(model, monkeypatch):
    monkeypatch.setattr(gate, "DOCUMENTS", 4)
    monkeypatch.setattr(pretrain, "TOKENIZER_DOCUMENTS", 3_000)
    tokenizer = pretrain.build_tokenizer(corpora.TOOLS, seed=0)
    config = dataclasses.replace(model[0], vocab_size=tokenizer.get_vocab_size())
    params = jax.jit(initialise, static_argnums=0)(config, jax.random.key(0))
    table = gate.measure(config, params, tokenizer, corpus=corpora.TOOLS)
    assert list(table["two"]) == ["tag", "name", "key", "value"]
    assert list(table["none"]) == ["tag"]
    assert len(gate.failures(table, corpora.TOOLS.needed)) == 4 + 4 + 1
    assert gate.markdown(table).splitlines()[-1].endswith("| - | - | - | - | - | - |")


def test_the_same_seed_makes_the_same_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gate, "DOCUMENTS", 2)
    monkeypatch.setattr(pretrain, "TOKENIZER_DOCUMENTS", 1_500)
    small = Recipe(steps=3, warmup=1, rows=2, layers=1, width=64, mlp=64, log_every=1)
    files = []
    for name in ("a", "b"):
        assert pretrain.make(tmp_path / name, small), "three steps cannot pass the gate"
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert "step 3/3" in capsys.readouterr().out
    assert set(files[0]) == {
        "README.md",
        "config.json",
        "gate.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert files[0][name] == files[1][name]
    assert json.loads(files[0]["gate.json"])["command"] == small.command()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 100}, "--width=100: expected a multiple of 64"),
        ({"steps": 50}, "--steps=50 leaves nothing after --warmup=100"),
        ({"rows": 0}, "--rows=0: expected a number above 0"),
        ({"seed": -1}, "--seed=-1: expected 0 or more"),
        ({"corpus": "poems"}, "--corpus=poems: expected arithmetic or tools"),
    ],
)
def test_an_impossible_recipe_says_what_to_mend(options, words):
    with pytest.raises(UserError, match=words):
        Recipe(**options)


def test_the_command_names_what_differs_from_the_shipped_base():
    assert Recipe().command() == "python -m torl_jax.pretrain --out=DIR"
    assert Recipe(seed=3, layers=2).command().endswith("--out=DIR --seed=3 --layers=2")
    assert Recipe(corpus="tools").command().endswith("--out=DIR --corpus=tools")


def test_a_failed_gate_is_exit_code_1_and_one_line(tmp_path):
    command = [
        sys.executable, "-m", "torl_jax.pretrain", f"--out={tmp_path / 'x'}", "--steps=2",
        "--warmup=1", "--rows=1", "--layers=1", "--width=64", "--mlp=64",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (line,) = [x for x in done.stderr.splitlines() if "gate" in x]
    assert "gcd box 0.00" in line and "Traceback" not in done.stderr


@BOTH
def test_the_shipped_base_passes_the_gate_as_its_card_says(corpus):
    folder = ASSETS / corpus.title
    config, params = hf.load(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    table = gate.measure(config, params, tokenizer, corpus=corpus)
    assert gate.failures(table, corpus.needed) == []
    record = json.loads((folder / "gate.json").read_text())
    assert list(record["families"]) == list(corpus.kinds)
    for family, row in record["families"].items():
        assert list(row) == list(table[family])
        for name, digits in row.items():
            assert table[family][name] == pytest.approx(Digits(**digits), abs=0.02)


@BOTH
def test_the_shipped_card_is_the_one_the_code_writes(corpus, tmp_path, monkeypatch):
    folder = ASSETS / corpus.title
    record = json.loads((folder / "gate.json").read_text())
    table = {
        family: {name: Digits(**digits) for name, digits in row.items()}
        for family, row in record["families"].items()
    }
    given = [word.removeprefix("--").split("=") for word in record["command"].split()[4:]]
    values = {name: value if name == "corpus" else json.loads(value) for name, value in given}
    recipe = Recipe(**values)
    count = hf.read_config(folder).parameter_count
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    pretrain.report(tmp_path, recipe, table, count, record["loss"], record["seconds"])
    for name in ("README.md", "gate.json"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()


@BOTH
def test_the_shipped_tokenizer_is_the_one_the_code_makes(corpus, tmp_path):
    folder = ASSETS / corpus.title
    made = pretrain.build_tokenizer(corpus, seed=0)
    vocabulary.save(made, tmp_path, corpus.chat_template)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((folder / name).read_text())


@BOTH
def test_the_shipped_base_is_small(corpus):
    files = list((ASSETS / corpus.title).iterdir())
    assert sum(p.stat().st_size for p in files) < 20_000_000
    assert hf.read_config(ASSETS / corpus.title).parameter_count < 1_000_000
