"""Keys and values of what every row has read so far.

One cache holds B rows (slots). Each row's length is its owner's number, not a
shape: what lies past it is never read and will be overwritten. So to pause, to
resume, to feed a tool's output and to roll back overshoot change a length and
nothing else.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from torl_jax.model.config import ModelConfig
from torl_jax.parallel.sharding import ACTIVATIONS, partition

LETTERS = "LBKSH"
# The capacity is a multiple of this: one lane tile, and the smallest block that a kernel reads.
BLOCK = 128


@flax.struct.dataclass
class Cache:
    """Keys and values, [L, B, K, S, H]: a head's positions lie beside each other."""

    k_LBKSH: jax.Array
    v_LBKSH: jax.Array

    @property
    def capacity(self) -> int:
        """S: the most tokens a row can hold, a multiple of BLOCK."""
        return self.k_LBKSH.shape[3]

    @property
    def slots(self) -> int:
        """B: how many rows there are."""
        return self.k_LBKSH.shape[1]

    @classmethod
    def zeros(
        cls,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: jnp.dtype,
        mesh: Mesh | None = None,
    ) -> "Cache":
        """An empty cache of `rows` rows of `capacity` positions or a few more.

        On a mesh it is born in its shards: rows over data x fsdp, kv heads over tp;
        UserError where they do not divide.
        """
        whole = -(-capacity // BLOCK) * BLOCK
        shape = (config.layers, rows, config.kv_heads, whole, config.head_dim)

        def make() -> Cache:
            return cls(k_LBKSH=jnp.zeros(shape, dtype), v_LBKSH=jnp.zeros(shape, dtype))

        if mesh is None:
            return make()
        where = NamedSharding(mesh, partition("the cache", LETTERS, shape, ACTIVATIONS, mesh))
        return jax.jit(make, out_shardings=where)()


@flax.struct.dataclass
class Window:
    """Where T new tokens of R rows go.

    rows_R: None for "all B slots in order", or the slot of each row. On a mesh the
    slots are split W ways (W = data x fsdp) and so are the rows: each way has R / W
    rows beside each other, whose numbers here count the slots of their own way from
    0 to B / W - 1; so no row leaves its device. Without a mesh W is 1. A number past
    the last slot is nobody's: nothing is written.
    positions_RT: cache position of each token, S or more where there is no token.
    """

    rows_R: jax.Array | None
    positions_RT: jax.Array


def write(cache: Cache, layer: jax.Array, window: Window, k_RTKH, v_RTKH) -> Cache:
    """Puts the new keys and values of one layer in place, on one device."""
    R, _, K, _ = k_RTKH.shape
    rows_R = jnp.arange(R) if window.rows_R is None else window.rows_R
    # Heads by index, not as a slice: a TPU's scatter with a slice outside of S would first
    # turn the whole cache so that K lies inside of it, and turn it back.
    where = (layer, rows_R[:, None, None], jnp.arange(K), window.positions_RT[:, :, None])

    def put(x_LBKSH: jax.Array, new_RTKH: jax.Array) -> jax.Array:
        return x_LBKSH.at[where].set(new_RTKH.astype(x_LBKSH.dtype), mode="drop")

    return Cache(k_LBKSH=put(cache.k_LBKSH, k_RTKH), v_LBKSH=put(cache.v_LBKSH, v_RTKH))


def read(
    cache: Cache,
    layer: jax.Array,
    rows_R: jax.Array | None,
    start: jax.Array | int = 0,
    span: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Keys and values [R, K, span, H] of one layer for these rows (`Window`), on one device.

    From position `start` on; `span` 0: all positions.
    """
    size = (1, 1, cache.k_LBKSH.shape[2], span or cache.capacity, cache.k_LBKSH.shape[4])

    def get(x_LBKSH: jax.Array) -> jax.Array:
        if rows_R is None:
            every = (1, x_LBKSH.shape[1], *size[2:])
            return jax.lax.dynamic_slice(x_LBKSH, (layer, 0, 0, start, 0), every)[0]

        # A slot that is nobody's reads the last row; what it computes is dropped by `write`.
        def one(row: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice(x_LBKSH, (layer, row, 0, start, 0), size)[0, 0]

        # A gather of whole rows makes a TPU's compiler rearrange the cache; a loop over rows
        # takes nearly twice as long on a CPU.
        return jax.lax.platform_dependent(
            rows_R, tpu=functools.partial(jax.lax.map, one), default=jax.vmap(one)
        )

    return get(cache.k_LBKSH), get(cache.v_LBKSH)


def fork(cache: Cache, source_R: jax.Array, target_R: jax.Array, span: int) -> Cache:
    """Copies the first `span` positions of rows source -> target (target >= B: nothing).

    The rows are numbers of slots in the whole cache, on a mesh too.
    """

    def copy(x_LBKSH: jax.Array) -> jax.Array:
        rows_LRKSH = x_LBKSH.at[:, source_R, :, :span].get(mode="clip")
        return x_LBKSH.at[:, target_R, :, :span].set(rows_LRKSH, mode="drop")

    return Cache(k_LBKSH=copy(cache.k_LBKSH), v_LBKSH=copy(cache.v_LBKSH))
