"""Tunix's sampling with tool calls: its orchestrator, its trajectory engines, its sampler.

Each episode is an agent and an environment; each turn renders and reads the whole conversation
again, alone. Its own learner gives a turn all tokens that are left and stops at the token that
ends it; a model of random weights writes none, so a turn is asked for as many tokens as it has,
which costs the sampler no more.
"""

import asyncio
import dataclasses
from concurrent.futures import ThreadPoolExecutor

from tunix.generate.tokenizer_adapter import TokenizerAdapter
from tunix.rl.agentic import utils
from tunix.rl.agentic.agents import model_agent
from tunix.rl.agentic.environments import base_environment
from tunix.rl.agentic.pipeline import rollout_orchestrator
from tunix.rl.rollout import base_rollout, vanilla_rollout

from benchmarks.peers import spec
from benchmarks.peers.tunix_model import Ids, model

AT_ONCE = 32  # episodes, as its learner has it
FEW = 4  # samples where each turn compiles: a whole batch takes too long
EVEN_CACHE = 256 + spec.NEW // (spec.CALLS + 1) + 1  # a text of up to 254 is padded to 256
WIDEST = spec.PROMPT + spec.NEW - spec.LEAST + spec.CALLS * spec.ANSWER  # the longest text
UNEVEN_CACHE = WIDEST + spec.NEW - spec.CALLS * spec.LEAST  # and the longest turn
SETTINGS = {
    "tools: samples": f"{spec.BATCH}; at uneven places {FEW}",
    "tools: path": "orchestrator, trajectory engine, vanilla rollout",
    "tools: turns": f"each text by itself, up to {AT_ONCE} threads, all of it read again",
    "tools: cache": f"{EVEN_CACHE}; at uneven places {UNEVEN_CACHE}",
    "tools: log-probs": "yes",
}


class Plain:
    """A chat template that adds nothing."""

    def parse(self, messages, add_generation_prompt=False, is_first_msg=False) -> str:
        del add_generation_prompt, is_first_msg
        return " ".join(message["content"] for message in messages if message["content"])


class Calls(base_environment.BaseTaskEnv):
    """Answers each turn but the last at once."""

    def _initial_observation(self) -> dict:
        return {"prompts": self.task["prompt"]}

    def _step_impl(self, action) -> base_environment.EnvStepResult:
        done = self.step_count > spec.CALLS
        said = spec.text(spec.answer(self.task["round"], self.task["sample"], self.step_count - 1))
        return base_environment.EnvStepResult("" if done else said, 0.0, done, {})


class Tools:
    """The orchestrator over a sampler whose cache holds the longest text and a turn, no more."""

    def __init__(self, uneven: bool) -> None:
        self.uneven = uneven
        # What is longer than the prompt's length is padded to a power of two: two lengths where
        # all turns end at the same places, else as many as there are turns. So there all texts
        # get one length.
        prompt, cache = (WIDEST, UNEVEN_CACHE) if uneven else (spec.PROMPT, EVEN_CACHE)
        self.how = base_rollout.RolloutConfig(
            max_prompt_length=prompt, temperature=1.0, top_p=1.0, return_logprobs=True
        )
        shape = base_rollout.CacheConfig(
            cache_size=cache, num_layers=spec.LAYERS, num_kv_heads=spec.KV_HEADS,
            head_dim=spec.HEAD_DIM,
        )  # fmt: skip
        self.text = TokenizerAdapter(Ids())
        self.rollout = vanilla_rollout.VanillaRollout(model(), self.text, shape)
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(ThreadPoolExecutor(AT_ONCE + 1))

    def run(self, round_: int) -> int:
        """Whole episodes; how many tokens were sampled."""
        count = FEW if self.uneven else spec.BATCH
        self.found = self.loop.run_until_complete(self._collect(round_, count))
        return sum(int(item.traj["conversation_masks"].sum()) for item in self.found)

    async def _collect(self, round_: int, count: int) -> list:
        orchestrator = rollout_orchestrator.RolloutOrchestrator(
            rollout_sync_lock=utils.RolloutSyncLock(), max_concurrency=AT_ONCE,
            engine_kwargs={
                "model_call": self._turn, "tokenizer": self.text, "chat_parser": Plain(),
                "max_response_length": spec.NEW + spec.CALLS * spec.ANSWER + 1,
            },
        )  # fmt: skip
        producers = asyncio.create_task(
            orchestrator.run_producers_from_stream(
                pairs(round_, count, self.uneven), group_size=count,
                group_key_fn=lambda *_: 0, collect_mode="Token",
            )
        )  # fmt: skip
        # It makes its queue first.
        await asyncio.sleep(0)
        found = [item async for items in orchestrator.yield_batches(count) for item in items]
        await producers
        return found

    def _turn(self, messages: list, env: Calls, **_) -> base_rollout.RolloutOutput:
        tokens = env.task["turns"][env.step_count]
        how = dataclasses.replace(self.how, max_tokens_to_generate=tokens)
        return self.rollout.generate([Plain().parse(messages)], how)


def pairs(round_: int, count: int, uneven: bool):
    """An agent and an environment for each sample."""
    turns = spec.turns(round_, uneven)
    for sample, prompt in enumerate(spec.prompts(round_)[:count]):
        task = {
            "prompt": spec.text(prompt), "round": round_, "sample": sample,
            "turns": turns[sample],
        }  # fmt: skip
        env = Calls(task, max_steps=spec.CALLS + 1, group_id=0, pair_index=sample)
        yield model_agent.ModelAgent(system_prompt=""), env
