"""From hidden states to logits, log-probabilities and entropy.

`token_scores` goes through the positions in chunks, all rows at once (they may lie on many
devices). It computes each chunk's logits again in the backward pass, so [B, T, V] is never
built and its peak memory is chunk * V whatever the batch; or it keeps them, where it may.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from torl_jax.parallel.sharding import shard


def head_weights(params: dict) -> jax.Array:
    """[V, D]: the embedding itself where it is tied, else the head's transpose."""
    return params["head_DV"].T if "head_DV" in params else params["embed_VD"]


def logits(params: dict, hidden_BD: jax.Array, vocab: int | None = None) -> jax.Array:
    """float32 [..., V] of hidden states [..., D].

    Rows of the head from `vocab` on are padding that no tokenizer spells
    (Qwen2.5: 151,665 of 151,936); they get no probability, here for the sampler
    and the learner alike.
    """
    weight_VD = head_weights(params).astype(hidden_BD.dtype)
    out = jnp.einsum("...D,VD->...V", hidden_BD, weight_VD, preferred_element_type=jnp.float32)
    if vocab is None or vocab >= out.shape[-1]:
        return out
    return jnp.where(jnp.arange(out.shape[-1]) < vocab, out, -1e30)


def token_scores(
    params: dict,
    hidden_BTD: jax.Array,
    targets_BT: jax.Array,
    temperature: jax.Array | float = 1.0,
    chunk: int = 1024,
    vocab: int | None = None,
    mesh: Mesh | None = None,
    keep: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """(log-prob of each target, entropy), both float32 [B, T] in nats.

    p = softmax(logits / temperature); entropy = -sum p log p over the vocabulary.
    `chunk`: tokens whose logits exist at a time, a multiple of B (at least B itself). `keep`: all
    of them are kept for the backward pass, float32 [B, T, V].
    """
    B, T = targets_BT.shape
    # Chunks alike, or the last would be mostly padding: a seventh of all, of 3584 by 1024.
    count = -(-T // max(chunk // B, 1))
    width = -(-T // count)  # positions a chunk
    padding = -T % width

    def chunks(x_BT: jax.Array) -> jax.Array:
        """[B, T, ...] -> [C, B, width, ...]."""
        padded = jnp.pad(x_BT, ((0, 0), (0, padding)) + ((0, 0),) * (x_BT.ndim - 2))
        return padded.reshape(B, -1, width, *x_BT.shape[2:]).swapaxes(0, 1)

    policies = jax.checkpoint_policies
    policy = policies.dots_saveable if keep else policies.nothing_saveable

    @functools.partial(jax.checkpoint, prevent_cse=False, policy=policy)
    def score(_, chunked):
        hidden_BTD, targets_BT = chunked
        logits_BTV = logits(params, shard(hidden_BTD, "BTD", mesh), vocab) / temperature
        logits_BTV = shard(logits_BTV, "BTV", mesh)
        norm_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
        chosen_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
        mean_BT = jnp.sum(jnp.exp(logits_BTV - norm_BT[..., None]) * logits_BTV, axis=-1)
        return None, (chosen_BT - norm_BT, norm_BT - mean_BT)

    _, scores = jax.lax.scan(score, None, (chunks(hidden_BTD), chunks(targets_BT)))
    logp_BT, entropy_BT = (x_CBt.swapaxes(0, 1).reshape(B, -1)[:, :T] for x_CBt in scores)
    return logp_BT, entropy_BT
