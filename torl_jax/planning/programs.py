"""The programs of a run, compiled for devices that need not be there.

    run = Run(cfg, shape, vocab, devices)
    compiled = run.lower(UPDATE).compile()

They are the trainer's own jitted functions, called with shapes and shardings in place of
arrays. `held` says what else lies in a device's memory while one of them runs.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from torl_jax import config, parts
from torl_jax.errors import UserError
from torl_jax.learner.learner import Learner
from torl_jax.model.attention import prefix
from torl_jax.model.cache import BLOCK, LETTERS, Cache
from torl_jax.model.config import ModelConfig
from torl_jax.model.published import PUBLISHED
from torl_jax.parallel import mesh as meshes
from torl_jax.parallel import sharding
from torl_jax.parallel.handoff import Handoff
from torl_jax.planning import kernels
from torl_jax.planning.cost import Facts
from torl_jax.rl import packing
from torl_jax.rl.batch import TrainBatch
from torl_jax.sampler.decode import Marks, Rows, decode_segment, extend
from torl_jax.sampler.sampling import Settings

STATES = 64  # of stop strings; how many a protocol has hardly matters
HANDOFF, EXTEND, DECODE, ANNOTATE, UPDATE = "handoff", "extend", "decode", "annotate", "update"
NAMES = (HANDOFF, EXTEND, DECODE, ANNOTATE, UPDATE)


def architecture(cfg: config.Model) -> tuple[ModelConfig, int]:
    """(architecture, ids of the tokenizer) of a folder, or by published name without one."""
    if cfg.path in PUBLISHED and not cfg.random:
        found = PUBLISHED[cfg.path]
        return dataclasses.replace(found.config, **cfg.overrides), found.tokens
    shape = parts.model_config(cfg)
    if cfg.path or cfg.tokenizer:
        return shape, min(len(parts.tokenizer(cfg)), shape.vocab_size)
    return shape, shape.vocab_size


@dataclasses.dataclass(frozen=True)
class Load:
    """What a step is expected to do; tokens are means of an episode.

    microbatches: filled ones of one optimiser step.
    """

    prompt: float
    response: float
    microbatches: int


class Run:
    """A recipe's programs on a topology's devices; UserError where it cannot be split so."""

    def __init__(
        self,
        cfg: config.Config,
        shape: ModelConfig,
        vocab: int,
        devices: Sequence[Any],
        host_devices: Sequence[Any],
    ) -> None:
        """`host_devices`: those of a slice of one host, for programs of one host alone."""
        if cfg.pipeline.samplers:
            raise UserError(
                f"config.pipeline.samplers is {cfg.pipeline.samplers}; plans know devices that do "
                "both: plan those that train as a slice of their own, with samplers=0"
            )
        self.cfg, self.shape, self.vocab = cfg, shape, vocab
        over = meshes.make(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tp, devices)
        self.training = over
        self.learner = Learner(
            cfg, parts.transformer(cfg, shape, remat=cfg.learner.remat), vocab, over
        )
        # The compiler takes no part of a slice, so a host's own programs get a slice of a host.
        if cfg.sampler.span == "host":
            over = meshes.make(-1, 1, 1, host_devices)
        self.sampling = parts.sampling_mesh(cfg.sampler, shape, over.devices.flat)
        self.model = parts.transformer(cfg, shape).clone(mesh=self.sampling)
        self.state = self.learner.abstract()
        self.weights = _placed(self.state.params, self.model.dtype, self.sampling)
        self.cache = self._cache()
        # Separate samplers, each with its own slots.
        self.samplers = self.training.devices.size // self.sampling.devices.size

    def lower(self, name: str) -> Any:
        """The traced program `name`, ready to be compiled."""
        return getattr(self, f"_{name}")()

    def facts(self, name: str, load: Load) -> Facts:
        """What the program's text does not tell: trips, branches, live cache."""
        sampler = self.cfg.sampler
        truncated = sampler.top_k > 0 or sampler.top_p < 1
        rules = kernels.rules(self._live(load))
        microbatches = Facts(trips={"while": load.microbatches}, kernels=rules)
        # Portable attention goes as far as the longest row has read.
        longest = min(load.prompt + load.response, self.cache.capacity)
        blocks = {prefix.SCOPE: math.ceil(longest / BLOCK)}
        return {
            HANDOFF: Facts(),
            EXTEND: Facts(trips=blocks, kernels=rules),
            DECODE: Facts(
                trips={"while": sampler.segment, **blocks},
                branches={} if truncated else {"while/body/cond": 0},
                kernels=rules,
            ),
            ANNOTATE: microbatches,
            UPDATE: microbatches,
        }[name]

    def held(self, name: str) -> int:
        """Bytes a device of what lives on beside the program's own arguments."""
        sizes = {
            "params": device_bytes(self.state.params),
            "optimiser": 0 if self.cfg.optimizer.offload else device_bytes(self.state.opt_state),
            "weights": device_bytes(self.weights),
            "cache": device_bytes(self.cache),
            "reference": device_bytes(self.state.params) if self.learner.needs_reference else 0,
            "critic": self._critic_bytes(),
        }
        own = {
            HANDOFF: {"params", "weights"},
            EXTEND: {"weights", "cache"},
            DECODE: {"weights", "cache"},
            ANNOTATE: {"params"},
            UPDATE: {"params", "optimiser"},
        }[name]
        return sum(size for what, size in sizes.items() if what not in own)

    def model_flops(self, load: Load) -> float:
        """FLOPs a device of one update by arithmetic: 6 N a token, and causal attention.

        Tokens are all places of the filled microbatches; N has no embedding that is only looked
        up. Attention is 4 T H a head and token forward, twice that backward, and half of it all
        where a token sees only the past.
        """
        cfg, c = self.cfg, self.shape
        tokens = load.microbatches * cfg.learner.microbatch_rows * cfg.learner.row_tokens
        attention = 6 * cfg.learner.row_tokens * c.heads * c.head_dim * c.layers
        N = c.parameter_count - (0 if c.tied else c.vocab_size * c.d_model)
        return tokens * (6 * N + attention) / self.training.devices.size

    def model_bytes(self, load: Load) -> float:
        """Bytes a device of one decode step by arithmetic: the weights and the live cache."""
        over = self.sampling.shape
        weights = device_bytes(self.weights) * over["fsdp"]
        return weights + device_bytes(self.cache) * self._live(load) / self.cache.capacity

    def _critic_bytes(self) -> int:
        """PPO's second network, which no program but its own update needs."""
        critic = self.state.critic
        if critic is None:
            return 0
        near = () if self.cfg.optimizer.offload else (critic.opt_state,)
        return device_bytes((critic.params, *near))

    def _live(self, load: Load) -> float:
        """Tokens that a row holds on average while it is decoded."""
        return min(load.prompt + load.response / 2, self.cache.capacity)

    def _handoff(self):
        give = Handoff(self.state.params, self.training, self.sampling, self.model.dtype)
        before = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            give.given,
            give.layout,
        )
        return give.program.lower(self.state.params, before=before)

    def _extend(self):
        sampler, ways = self.cfg.sampler, meshes.ways(self.sampling)
        R = -(-sampler.extend_rows // ways) * ways
        T = min(max(sampler.ladder), self.cache.capacity)
        row_R, tokens_RT = self._whole((R,), jnp.int32), self._whole((R, T), jnp.int32)
        return extend.lower(
            self.weights, self.cache, row_R, row_R, row_R, tokens_RT, model=self.model
        )

    def _decode(self):
        B, V = self.cfg.sampler.slots, self.shape.vocab_size
        kinds = {"problem_B": jnp.uint32, "live_B": jnp.bool_}
        rows = Rows(
            **{
                field.name: self._whole((B,), kinds.get(field.name, jnp.int32))
                for field in dataclasses.fields(Rows)
            }
        )
        settings = jax.tree.map(lambda x: self._whole((B,), x.dtype), Settings.of())
        return decode_segment.lower(
            self.weights,
            self.cache,
            rows,
            Marks(
                end_V=self._whole((V,), jnp.bool_),
                stop_SV=self._whole((STATES, V), jnp.uint16),
            ),
            settings,
            self._whole((2,), jnp.uint32),
            model=self.model,
            steps=self.cfg.sampler.segment,
            vocab=self.vocab,
        )

    def _annotate(self):
        policy = self.learner.policy
        return policy.annotate_program.lower(
            self.state.params, self._batch(annotated=False), loss=policy.loss
        )

    def _update(self):
        policy = self.learner.policy
        return policy.update_program.lower(
            policy.abstract(),
            self._batch(annotated=True),
            loss=policy.loss,
            optimizer=policy.optimizer,
        )

    def _batch(self, annotated: bool) -> TrainBatch:
        """As `rl.batch.from_episodes` shapes it."""
        cfg = self.cfg
        B, T, rungs = cfg.learner.microbatch_rows, cfg.learner.row_tokens, cfg.learner.rungs
        M = packing.microbatches(cfg.rl.minibatch, B, rungs)
        where, everywhere = sharding.rows(self.training), sharding.replicated(self.training)

        def array(dtype) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((M, B, T), dtype, sharding=where)

        whole, real = array(jnp.int32), array(jnp.float32)
        return TrainBatch(
            tokens=whole,
            positions=whole,
            segments=whole,
            targets=whole,
            mask=real,
            weight=real,
            episode=whole,
            sampler_logp=real,
            advantage=real if annotated else None,
            count=jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
            rung=jax.ShapeDtypeStruct((M,), jnp.int32, sharding=everywhere) if rungs > 1 else None,
            widths=packing.ladder(T, rungs) if rungs > 1 else (),
            old_logp=real if annotated and self.learner.needs_old else None,
            ref_logp=real if annotated and self.learner.pays_kl else None,
            values=real if annotated and self.learner.critic is not None else None,
            returns=real if annotated and self.learner.critic is not None else None,
        )

    def _cache(self) -> Cache:
        sampler, over = self.cfg.sampler, self.sampling
        make = functools.partial(
            Cache.zeros,
            self.shape,
            sampler.slots,
            sampler.longest,
            self.model.dtype,
        )

        def put(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            spec = sharding.partition("the cache", LETTERS, x.shape, sharding.ACTIVATIONS, over)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(over, spec))

        return jax.tree.map(put, jax.eval_shape(make))

    def _whole(self, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        where = sharding.replicated(self.sampling)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def device_bytes(tree) -> int:
    """Bytes of a tree of shapes with shardings on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(tree)
    )


def _placed(params, dtype, over: Mesh):
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, dtype, sharding=where),
        params,
        sharding.shardings(params, over),
    )
