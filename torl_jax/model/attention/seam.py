"""The one door to attention: `packed` for training, `cached` for sampling.

| name | packed | cached, one token a row | cached, otherwise |
|---|---|---|---|
| xla | portable | up to the longest row, or by length | up to the longest row |
| tpu | splash attention | live blocks of each row | portable |
| gpu | cuDNN | portable | portable |

"auto" takes the platform's own and says so once where it cannot; a name that is asked for
and does not fit is an error. On a mesh everything but portable `packed`, which the
partitioner splits by itself, is a program for one device under `shard_map`: rows over
data x fsdp, heads over tp.
"""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from torl_jax.errors import UserError
from torl_jax.model.attention import cudnn, live, portable, prefix, splash
from torl_jax.model.cache import LETTERS, Cache, Window, read, write
from torl_jax.parallel.sharding import ACTIVATIONS, partition

NAMES = ("auto", "xla", "tpu", "gpu")


def choose(name: str, mesh: Mesh | None, task: str, misfits: dict[str, str]) -> str:
    """The implementation's name: never "auto".

    misfits: for each implementation why it cannot do this task, or "". Programs for a TPU
    are also compiled where there is none, so the mesh's devices decide, not the backend.
    """
    if name not in NAMES:
        raise UserError(f"attention is {name!r}; expected one of {', '.join(NAMES)}")
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    wanted = name if name != "auto" else platform if platform in NAMES else "xla"
    reason = misfits.get(wanted, "")
    if not reason:
        return wanted
    if name != "auto":
        raise UserError(f'attention is "{name}", whose {task} {reason}; use "xla" or "auto"')
    _say(f"{task} uses portable attention on this {platform}: its own {reason}")
    return "xla"


@functools.cache
def _say(text: str) -> None:
    """Once for each text, whatever the filters and however often a program is traced."""
    warnings.warn(text, stacklevel=2)


def packed(
    q_BTNH, k_BTKH, v_BTKH, positions_BT, segments_BT, *, name: str, mesh: Mesh | None
) -> jax.Array:
    """Causal attention [B, T, N, H] among the tokens of each segment of a row.

    Inside a segment tokens must stand in the order of their positions: the kernels look at
    places in the row.
    """
    misfits = {"tpu": splash.misfit(q_BTNH), "gpu": cudnn.misfit(q_BTNH)}
    chosen = choose(name, mesh, "training", misfits)
    if chosen == "xla":
        return portable.causal(q_BTNH, k_BTKH, v_BTKH, positions_BT, segments_BT)
    attend = {"tpu": splash.attend, "gpu": cudnn.attend}[chosen]
    heads, kept = _spec("BTNH", q_BTNH, mesh), _spec("BTKH", k_BTKH, mesh)
    rows = None if segments_BT is None else _spec("BT", segments_BT, mesh)
    local = _per_device(attend, mesh, (heads, kept, kept, rows), heads)
    return local(q_BTNH, k_BTKH, v_BTKH, segments_BT)


def cached(
    q_RTNH,
    k_RTKH,
    v_RTKH,
    cache: Cache,
    layer: jax.Array,
    window: Window,
    *,
    name: str,
    mesh: Mesh | None,
    by_length: bool = False,
) -> tuple[jax.Array, Cache]:
    """Writes the new keys and values, then looks at all that each row has read.

    `by_length`: as `prefix.attend` says; kernels read each row's own blocks anyway. Returns
    ([R, T, N, H], the cache). A row without a token gets a finite, meaningless value.
    """
    one_each = q_RTNH.shape[1] == 1
    misfits = {"tpu": live.misfit(q_RTNH)} if one_each else {}
    chosen = choose(name, mesh, "decoding", misfits)
    if chosen == "xla":
        attend = functools.partial(prefix.attend, by_length=by_length)
    else:
        attend = _live_positions if chosen == "tpu" and one_each else _all_positions

    def local(q_RTNH, k_RTKH, v_RTKH, cache, layer, window):
        cache = write(cache, layer, window, k_RTKH, v_RTKH)
        return attend(q_RTNH, cache, layer, window), cache

    heads, new = _spec("BTNH", q_RTNH, mesh), _spec("BTKH", k_RTKH, mesh)
    kept = _spec(LETTERS, cache.k_LBKSH, mesh)
    caches = Cache(k_LBKSH=kept, v_LBKSH=kept)
    places = Window(
        rows_R=None if window.rows_R is None else _spec("B", window.rows_R, mesh),
        positions_RT=_spec("BT", window.positions_RT, mesh),
    )
    specs = (heads, new, new, caches, PartitionSpec(), places)
    run = _per_device(local, mesh, specs, (heads, caches))
    return run(q_RTNH, k_RTKH, v_RTKH, cache, layer, window)


def _all_positions(q_RTNH, cache: Cache, layer, window: Window) -> jax.Array:
    k_RKSH, v_RKSH = read(cache, layer, window.rows_R)
    mask_RTS = window.positions_RT[:, :, None] >= jnp.arange(cache.capacity)
    return portable.attend(q_RTNH, k_RKSH, v_RKSH, mask_RTS)


def _live_positions(q_R1NH, cache: Cache, layer, window: Window) -> jax.Array:
    length_R = live.lengths(window.positions_RT[:, 0], cache.capacity)
    k_LBKSH, v_LBKSH = cache.k_LBKSH, cache.v_LBKSH
    return live.attend(q_R1NH[:, 0], k_LBKSH, v_LBKSH, layer, length_R, window.rows_R)[:, None]


def _spec(letters: str, x: jax.Array, mesh: Mesh | None) -> Any:
    # Any: specs stand where a Cache or a Window has its arrays.
    if mesh is None:
        return PartitionSpec()
    return partition(f"attention's {letters}", letters, x.shape, ACTIVATIONS, mesh)


def _per_device(function, mesh: Mesh | None, in_specs, out_specs):
    """The function on each device's part of its arguments; no part needs another."""
    if mesh is None:
        return function
    # A kernel's outputs do not say over which mesh axes they differ, so it is not checked.
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
