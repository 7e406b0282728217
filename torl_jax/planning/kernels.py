"""What the model's Pallas kernels do, which XLA does not see: FLOPs and HBM bytes by shapes.

A rule is found by the kernel's name in the program. It counts what the kernel's grid visits.
"""

import functools
from collections.abc import Mapping

from torl_jax.planning.cost import Rule
from torl_jax.planning.hlo import Array

# Products of [T, H] by [H, T] (or the like) in each block that a splash kernel visits.
# Backward is one kernel, whose parts of dq, one a block of keys, XLA then adds up.
SPLASH_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dkv": 5}


def rules(live: float) -> Mapping[str, Rule]:
    """All rules; `live`: tokens that a row of the cache holds on average."""
    splash = {
        name: functools.partial(_splash, products=products)
        for name, products in SPLASH_PRODUCTS.items()
    }
    return {"live_attention": functools.partial(_live_attention, live=live), **splash}


def _live_attention(
    operands: tuple[Array, ...], results: tuple[Array, ...], live: float
) -> tuple[float, float]:
    """One query a row over its live blocks of one layer of the cache [L, B, K, S, H]."""
    query = next(array for array in operands if len(array.dims) == 4)
    cache = [array for array in operands if len(array.dims) == 5]
    L, _, _, S, _ = cache[0].dims
    read = sum(array.moved for array in cache) / (L * S) * live
    work = 4.0 * query.size * live
    return work, read + query.moved + sum(array.moved for array in results)


def _splash(
    operands: tuple[Array, ...], results: tuple[Array, ...], products: int
) -> tuple[float, float]:
    """Causal block-sparse attention: of n x n blocks n (n + 1) / 2 are visited.

    The first operands describe the blocks, [.., n, ..]; then come q [.., N, T, H], k and v.
    For each block of queries the keys and values that it looks at are read (dkv: for each
    block of keys the queries); the rest is read or written once.
    """
    n = operands[0].dims[-2]
    wide = [array for array in operands if array.dtype in ("bf16", "f32") and len(array.dims) > 2]
    query, key = wide[0], wide[1]
    T = query.dims[-2]
    visited = (n + 1) / (2 * n)
    work = 2.0 * products * query.size * T * visited
    heads = query.size // key.size
    inner = wide[:1] if products == 5 else wide[1:3]
    again = sum(array.moved for array in inner) * (1 if products == 5 else heads) * n * visited
    once = sum(array.moved for array in operands if array not in inner)
    # Results that only lead the grid (scratch of one block) are counted too; they are small.
    return work, again + once + sum(array.moved for array in results)
