"""From hidden states to logits, log-probabilities and entropy.

[B, T, V] is never built: `token_scores` goes through the tokens in chunks and
recomputes each chunk's logits in the backward pass, so its peak memory is
chunk * V whatever the batch.
"""

import jax
import jax.numpy as jnp


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
) -> tuple[jax.Array, jax.Array]:
    """(log-prob of each target, entropy), both float32 [B, T] in nats.

    p = softmax(logits / temperature); entropy = -sum p log p over the vocabulary.
    """
    B, T, D = hidden_BTD.shape
    total = B * T
    chunk = min(chunk, total)
    padding = -total % chunk
    hidden_CcD = jnp.pad(hidden_BTD.reshape(total, D), ((0, padding), (0, 0)))
    targets_Cc = jnp.pad(targets_BT.reshape(total), (0, padding))

    @jax.checkpoint
    def score(_, chunked):
        hidden_cD, targets_c = chunked
        logits_cV = logits(params, hidden_cD, vocab) / temperature
        norm_c = jax.nn.logsumexp(logits_cV, axis=-1)
        chosen_c = jnp.take_along_axis(logits_cV, targets_c[:, None], axis=-1)[:, 0]
        mean_c = jnp.sum(jnp.exp(logits_cV - norm_c[:, None]) * logits_cV, axis=-1)
        return None, (chosen_c - norm_c, norm_c - mean_c)

    xs = (hidden_CcD.reshape(-1, chunk, D), targets_Cc.reshape(-1, chunk))
    _, (logp, entropy) = jax.lax.scan(score, None, xs)
    return logp.reshape(-1)[:total].reshape(B, T), entropy.reshape(-1)[:total].reshape(B, T)
