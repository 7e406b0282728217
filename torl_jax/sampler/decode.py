"""The sampler's device programs: extend, fork, decode_segment. All pure.

A row holds `len` tokens in the cache and one `pending` token that is not in it
yet. `extend` writes known tokens (a prompt, a tool's output) and needs no head
at all; `decode_segment` feeds the pending token, samples the next one, which
becomes pending, and so on. Everything about a row is data (`Rows`), so lengths,
budgets, calls and order never compile anything.

On the model's mesh rows lie over data x fsdp, heads and vocabulary over tp; `Rows` and
what is sampled are whole on every device, so that every host of a mesh can read them.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from torl_jax.model import heads
from torl_jax.model.cache import LETTERS, Cache, Window
from torl_jax.model.cache import fork as fork_rows
from torl_jax.model.transformer import Transformer
from torl_jax.parallel import launches
from torl_jax.parallel.sharding import replicated, shard
from torl_jax.sampler.sampling import Settings, sample
from torl_jax.stops import DEAF, DONE

Array = Any  # numpy on the host, jax in a program


@flax.struct.dataclass
class Rows:
    """What the decoder knows of the rows that it decodes; every field is [B].

    slot: whose row it is, numbered as `Window` says; not looked at where B are all slots in
    order. len: tokens in the cache. pending: the token to feed next. place: how many
    tokens of the response came before the one sampled next (its key). budget:
    how many tokens may still be sampled. stop: how far a stop string has come, a state of
    `Marks.stop_SV`, or DEAF. live: takes part in this segment. problem, sample: the row's
    random keys.
    """

    slot_B: Array
    len_B: Array
    pending_B: Array
    place_B: Array
    budget_B: Array
    stop_B: Array
    live_B: Array
    problem_B: Array
    sample_B: Array


@flax.struct.dataclass
class Marks:
    """What stops a row on the device: ends of text, bool [V], and stop strings, a table [S, V].

    The table is as `stops.py` says. The host looks for stop strings too, and decides: a stop
    here saves overshoot, no more.
    """

    end_V: Array
    stop_SV: Array


@flax.struct.dataclass
class Sampled:
    """What a segment sampled: token and log-prob [B, T], of which count [B] are real.

    stop [B] is where the rows' `Rows.stop` has come to.
    """

    tokens_BT: jax.Array
    logp_BT: jax.Array
    count_B: jax.Array
    stop_B: jax.Array
    steps: jax.Array


@launches.jit(static_argnames=("model",), donate_argnames=("cache",))
def extend(params, cache: Cache, slots_R, start_R, count_R, tokens_RT, *, model: Transformer):
    """Writes count_R tokens of each row at positions start_R.. of slots_R into the cache.

    slots_R are numbered as `Window` says: on a mesh within each way.
    """
    offset_T = jnp.arange(tokens_RT.shape[1])
    real_RT = offset_T < count_R[:, None]
    positions_RT = jnp.where(real_RT, start_R[:, None] + offset_T, cache.capacity)
    window = Window(rows_R=slots_R, positions_RT=positions_RT)
    written: Any
    _, written = model.apply(
        {"params": params}, tokens_RT, positions_RT, cache=cache, window=window
    )
    return placed(written, model.mesh)


@launches.jit(static_argnames=("span", "mesh"), donate_argnames=("cache",))
def fork(cache: Cache, source_R, target_R, *, span: int, mesh: Mesh | None = None) -> Cache:
    """Gives rows target_R the first `span` positions of rows source_R."""
    return placed(fork_rows(cache, source_R, target_R, span), mesh)


def placed(cache: Cache, mesh: Mesh | None) -> Cache:
    """The cache where it was born: another layout would compile the next call again."""
    return jax.tree.map(lambda x: shard(x, LETTERS, mesh), cache)


def whole(tree, mesh: Mesh | None):
    """Every array of `tree` on every device."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def stems(seed_2: jax.Array, rows: Rows) -> jax.Array:
    """What a row's random keys have in common: seed <- problem <- sample; keys [B].

    seed_2 are a key's two words (`jax.random.key_data`).
    """
    key = jax.random.wrap_key_data(seed_2)

    def fold(problem, sample_):
        return jax.random.fold_in(jax.random.fold_in(key, problem), sample_)

    return jax.vmap(fold)(rows.problem_B, rows.sample_B)


def row_keys(stem_B: jax.Array, place_B: jax.Array) -> jax.Array:
    """The random key of each row's next token: its stem <- place."""
    return jax.vmap(jax.random.fold_in)(stem_B, place_B)


@launches.jit(static_argnames=("model", "steps", "vocab"), donate_argnames=("cache",))
def decode_segment(
    params,
    cache: Cache,
    rows: Rows,
    marks: Marks,
    settings: Settings,
    seed_2: jax.Array,
    *,
    model: Transformer,
    steps: int,
    vocab: int,
) -> tuple[Cache, Sampled]:
    """Up to `steps` tokens for each live row; ends as soon as no row is live."""
    B, mesh = rows.len_B.shape[0], model.mesh
    slot_B = None if cache.slots == B else rows.slot_B
    stem_B = stems(seed_2, rows)
    sampled = Sampled(
        tokens_BT=jnp.zeros((B, steps), jnp.int32),
        logp_BT=jnp.zeros((B, steps), jnp.float32),
        count_B=jnp.zeros((B,), jnp.int32),
        stop_B=jnp.asarray(rows.stop_B),
        steps=jnp.int32(0),
    )

    def unfinished(carry):
        _, rows, sampled = carry
        return (sampled.steps < steps) & jnp.any(rows.live_B)

    def step(carry):
        held, rows, sampled = carry
        positions_B1 = jnp.where(rows.live_B, rows.len_B, held.capacity)[:, None]
        written: Any
        hidden_B1D, written = model.apply(
            {"params": params},
            rows.pending_B[:, None],
            positions_B1,
            cache=held,
            window=Window(rows_R=slot_B, positions_RT=positions_B1),
        )
        logits_BV = shard(heads.logits(params, hidden_B1D[:, 0], vocab), "BV", mesh)
        token_B, logp_B = whole(sample(logits_BV, row_keys(stem_B, rows.place_B), settings), mesh)
        sampled = Sampled(
            tokens_BT=sampled.tokens_BT.at[:, sampled.steps].set(token_B),
            logp_BT=sampled.logp_BT.at[:, sampled.steps].set(logp_B),
            count_B=sampled.count_B + rows.live_B,
            stop_B=sampled.stop_B,
            steps=sampled.steps + 1,
        )
        return placed(written, mesh), advance(rows, token_B, marks), sampled

    filled, rows, sampled = jax.lax.while_loop(unfinished, step, (cache, rows, sampled))
    return filled, whole(dataclasses.replace(sampled, stop_B=rows.stop_B), mesh)


def advance(rows: Rows, token_B: jax.Array, marks: Marks) -> Rows:
    """The rows after each live one has sampled token_B."""
    one_B = rows.live_B.astype(jnp.int32)
    budget_B = rows.budget_B - one_B
    moved_B = marks.stop_SV[jnp.maximum(rows.stop_B, 0), token_B].astype(jnp.int32)
    hears_B = rows.live_B & (rows.stop_B != DEAF)
    done_B = hears_B & (moved_B >= DONE)
    halt_B = marks.end_V[token_B] | done_B | (budget_B <= 0)
    return dataclasses.replace(
        rows,
        len_B=rows.len_B + one_B,
        pending_B=jnp.where(rows.live_B, token_B, rows.pending_B),
        place_B=rows.place_B + one_B,
        budget_B=budget_B,
        stop_B=jnp.where(hears_B, moved_B % DONE, rows.stop_B),
        live_B=rows.live_B & ~halt_B,
    )
