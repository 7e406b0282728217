"""What commands that evaluate have in common: a folder, a name for weights, a way to stop."""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from etils import epath

from torl_jax import compilation
from torl_jax.errors import Interrupted, UserError
from torl_jax.interrupt import StopSignal
from torl_jax.model.config import ModelConfig
from torl_jax.workdir import only_run


def fingerprint(params: dict) -> str:
    """Of weights: some numbers of every array, which one optimiser step changes."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        flat = np.asarray(leaf).reshape(-1)
        some = flat[:: max(flat.size // 4096, 1)]
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode() + some.tobytes())
    return digest.hexdigest()[:16]


def check_room(shape: ModelConfig, prompt: int, response: int) -> None:
    """UserError where the model has no positions for a prompt and a response of so many tokens."""
    room = shape.max_positions - response
    shape.check_positions(
        prompt + response,
        f"the longest prompt ({prompt}) with max_response={response}",
        f"--max_prompt={room} counts longer prompts as wrong, or lower --max_response"
        if room > 0
        else f"give a --max_response below {shape.max_positions}",
    )


@contextlib.contextmanager
def alone(out: epath.Path) -> Iterator[None]:
    """Holds the folder `out`; UserError where another process does."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_run(out))
        except UserError as error:
            raise UserError(str(error).replace("--workdir", "--out")) from None
        yield


def stoppable(work: Callable[[StopSignal], None], saved: str) -> None:
    """Does it; where somebody asked to stop, says what is `saved` and exits with 130."""
    compilation.keep()
    with StopSignal() as stop:
        try:
            work(stop)
        except Interrupted:
            print(f"stopped; {saved}", file=sys.stderr)
            sys.exit(130)
