"""Decoding on TPU: one new token a row, and of the cache only what is live is read.

A row of length n has ceil(n / block) live blocks. The kernel's grid is the list of the
live blocks of all rows (`Plan`), so neither bytes nor steps depend on the capacity. The
blocks lie in the cache of all layers: no layer is sliced out of it. A row's blocks follow
one another, and its softmax is summed over them as in flash decoding (Milakov & Gimelshein
2018): running maximum, sum and weighted values, all in float32.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from torl_jax.model.cache import BLOCK

# What one step of the grid reads, keys and values: 0.6 us of a v5e's memory, 0.2 us of a v5p's.
# Smaller blocks wait for the loop around them, larger ones read more that is dead. A guess
# from those figures, not timed.
STEP_BYTES = 2**19
LANES = 128


@flax.struct.dataclass
class Plan:
    """The live blocks of all rows: row and number within the row of each, and how many."""

    row_I: jax.Array
    block_I: jax.Array
    count: jax.Array


def block_size(position_bytes: int, capacity: int, step_bytes: int) -> int:
    """Positions a block: the most BLOCKs, doubled or single, that fit into a step's bytes."""
    most = max(step_bytes // (position_bytes * BLOCK), 1)
    return min(BLOCK * 2 ** (most.bit_length() - 1), capacity)


def lengths(last_B: jax.Array, capacity: int) -> jax.Array:
    """Positions to look at where the newest token is at last_B; none where there is no token."""
    return jnp.where(last_B < capacity, last_B + 1, 0).astype(jnp.int32)


def plan(length_B: jax.Array, capacity: int, block: int) -> Plan:
    """The work for rows of these lengths; a row of length 0 has none."""
    count_B = -(-length_B // block)
    end_B = jnp.cumsum(count_B)
    i_I = jnp.arange(length_B.shape[0] * -(-capacity // block))
    done_IB = end_B <= i_I[:, None]
    return Plan(
        # Past the end of the list all rows are done; nobody goes there.
        row_I=jnp.minimum(jnp.sum(done_IB, axis=1), length_B.shape[0] - 1).astype(jnp.int32),
        block_I=(i_I - jnp.max(jnp.where(done_IB, end_B, 0), axis=1)).astype(jnp.int32),
        count=end_B[-1].astype(jnp.int32),
    )


def _kernel(
    row_I,
    block_I,
    length_B,
    slot_B,
    layer_1,
    q_ref,
    k_ref,
    v_ref,
    out_ref,
    top,
    total,
    acc,
    *,
    block,
    scale,
):
    """One block [K, block, H] of one row; `top`, `total` and `acc` live as long as the row."""
    del slot_B, layer_1  # the index maps have used them
    i = pl.program_id(0)
    length = length_B[row_I[i]]
    start = block_I[i] * block

    @pl.when(start == 0)
    def _():
        top[...] = jnp.full_like(top, -jnp.inf)
        total[...] = jnp.zeros_like(total)
        acc[...] = jnp.zeros_like(acc)

    q_KGH, k_KSH, v_KSH = q_ref[0], k_ref[0, 0], v_ref[0, 0]
    dot = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
    score_KGS = scale * dot(q_KGH, k_KSH, (((2,), (2,)), ((0,), (0,))))
    here_KGS = start + jax.lax.broadcasted_iota(jnp.int32, score_KGS.shape, 2)
    score_KGS = jnp.where(here_KGS < length, score_KGS, -jnp.inf)
    # What lies past the length may be anything, even what times zero is not zero.
    here_KSH = start + jax.lax.broadcasted_iota(jnp.int32, v_KSH.shape, 1)
    v_KSH = jnp.where(here_KSH < length, v_KSH, 0)

    before_KG1 = top[:, :, :1]
    top_KG1 = jnp.maximum(before_KG1, jnp.max(score_KGS, axis=-1, keepdims=True))
    weight_KGS = jnp.exp(score_KGS - top_KG1)
    keep_KG1 = jnp.exp(before_KG1 - top_KG1)
    sum_KG1 = keep_KG1 * total[:, :, :1] + jnp.sum(weight_KGS, axis=-1, keepdims=True)
    new_KGH = dot(weight_KGS.astype(v_KSH.dtype), v_KSH, (((2,), (1,)), ((0,), (0,))))
    acc[...] = keep_KG1 * acc[...] + new_KGH
    top[...] = jnp.broadcast_to(top_KG1, top.shape)
    total[...] = jnp.broadcast_to(sum_KG1, total.shape)

    @pl.when(start + block >= length)
    def _():
        out_ref[0] = (acc[...] / total[:, :, :1]).astype(out_ref.dtype)


def misfit(q_BTNH: jax.Array) -> str:
    """Why the kernel cannot take these queries and their cache, or ""."""
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float32):
        return f"kernel takes bfloat16 or float32, not {q_BTNH.dtype}"
    if q_BTNH.shape[-1] % LANES:
        # The compiler keeps such a cache in another order, and would copy all of it.
        return f"kernel takes a head_dim that divides by {LANES}, not {q_BTNH.shape[-1]}"
    return ""


def attend(
    q_BNH, k_LBKSH, v_LBKSH, layer, length_B, slot_B=None, *, step_bytes: int = STEP_BYTES
) -> jax.Array:
    """Each row's query over the first length_B positions of one layer; [B, N, H].

    slot_B: where in the cache each row is, None: all its rows in order. Rows of length 0
    get zeros.
    """
    B, N, H = q_BNH.shape
    slot_B = jnp.arange(B) if slot_B is None else slot_B
    K, S = k_LBKSH.shape[2:4]
    G = N // K
    block = block_size(2 * K * H * k_LBKSH.dtype.itemsize, S, step_bytes)
    work = plan(length_B, S, block)

    def of_row(i, row_I, *_):
        return row_I[i], 0, 0, 0

    def of_block(i, row_I, block_I, length_B, slot_B, layer_1):
        del length_B
        return layer_1[0], slot_B[row_I[i]], 0, block_I[i], 0

    kept = pl.BlockSpec((1, 1, K, block, H), of_block)
    out_BKGH = pl.pallas_call(
        functools.partial(_kernel, block=block, scale=H**-0.5),
        out_shape=jax.ShapeDtypeStruct((B, K, G, H), q_BNH.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=5,
            grid=(work.count,),
            in_specs=[pl.BlockSpec((1, K, G, H), of_row), kept, kept],
            out_specs=pl.BlockSpec((1, K, G, H), of_row),
            scratch_shapes=[
                pltpu.VMEM((K, G, LANES), jnp.float32),
                pltpu.VMEM((K, G, LANES), jnp.float32),
                pltpu.VMEM((K, G, H), jnp.float32),
            ],
        ),
        name="live_attention",
    )(
        work.row_I, work.block_I, length_B, slot_B.astype(jnp.int32),
        jnp.reshape(layer, 1).astype(jnp.int32),
        q_BNH.reshape(B, K, G, H), k_LBKSH, v_LBKSH,
    )  # fmt: skip
    # Rows without work were never written.
    out_BNH = out_BKGH.reshape(B, N, H)
    return jnp.where((length_B > 0)[:, None, None], out_BNH, jnp.zeros_like(out_BNH))
