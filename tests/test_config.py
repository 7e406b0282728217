"""The door of the typed config: what it refuses, and what its one line says."""

import dataclasses
import importlib
import json
from pathlib import Path

import ml_collections
import pytest

from configs import toolrl_1p5b
from torl_jax import config
from torl_jax.config import bounds
from torl_jax.errors import UserError

CONFIGS = sorted(
    path.stem
    for path in (Path(__file__).resolve().parent.parent / "configs").glob("*.py")
    if path.stem != "__init__"
)


def refused(raw) -> str:
    with pytest.raises(UserError) as error:
        config.parse(raw)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_empty_config_is_the_default():
    assert config.parse({}) == config.Config()


def test_round_trip():
    made = config.parse(
        {
            "model": {"random": True, "overrides": {"layers": 2, "eos_ids": (1, 2)}},
            "data": {"source": "arithmetic", "families": ("sums", "gcd")},
            "rl": {"kl_coef": 1, "kl_estimator": "k1"},
        }
    )
    assert config.parse(config.to_dict(made)) == made
    # Through JSON tuples become lists; they come back.
    assert config.parse(json.loads(json.dumps(config.to_dict(made)))) == made
    assert made.rl.kl_coef == 1.0 and type(made.rl.kl_coef) is float
    assert made.data.families == ("sums", "gcd")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_recipe_parses(name):
    module = importlib.import_module(f"configs.{name}")
    raw = module.get_config()
    assert raw.is_locked
    assert config.parse(raw).run.steps > 0
    assert module.__doc__


@pytest.mark.parametrize("name", ["torl_1p5b", "torl_7b", "toolrl_1p5b", "toolrl_7b"])
def test_smoke_differs_in_size_only(name):
    module = importlib.import_module(f"configs.{name}")
    paper, smoke = (config.parse(module.get_config(a)) for a in ("", "smoke"))
    assert smoke.model.random and not paper.model.random
    assert smoke.protocol == paper.protocol
    for key in ("clip_low", "clip_high", "kl_coef", "entropy_coef", "minibatches"):
        assert getattr(smoke.rl, key) == getattr(paper.rl, key)
    with pytest.raises(UserError, match="smoke"):
        module.get_config("smok")


@pytest.mark.parametrize("name", ["torl_1p5b", "torl_7b"])
def test_each_ablation_changes_its_own_keys_only(name):
    module = importlib.import_module(f"configs.{name}")
    paper = config.parse(module.get_config())
    wanted = {
        "c0": {"protocol": {"calls": 0}},
        "c2": {"protocol": {"calls": 2}},
        "penalty": {"reward": {"execution": -0.5}},
    }
    for argument, changes in wanted.items():
        keys = {"run": {"steps": 215}} | changes
        changed = {
            section: dataclasses.replace(getattr(paper, section), **values)
            for section, values in keys.items()
        }
        ablation = config.parse(module.get_config(argument))
        assert ablation == dataclasses.replace(paper, **changed)
    both = config.parse(module.get_config("c2,smoke"))
    assert both.protocol.calls == 2 and both.model.random and both.run.steps == 2


@pytest.mark.parametrize("name", ["zerotir_1p5b", "zerotir_7b", "zerotir_32b"])
def test_each_zerotir_argument_changes_its_own_keys_only(name):
    module = importlib.import_module(f"configs.{name}")
    paper = config.parse(module.get_config())
    short = {"sampler": {"max_response": 8192}, "learner": {"row_tokens": 9216}}
    open_filters = {
        "accuracy_low": 0.0, "accuracy_high": 1.0, "rounds": 1, "leftovers": False, "samples": (),
    }  # fmt: skip
    wanted = {
        "grpo": {"rl": {"estimator": "grpo"}},
        "ppo": {"rl": {"estimator": "gae"}},
        "gspo": {
            "rl": {
                "estimator": "grpo", "ratio": "sequence", "aggregation": "sequence",
                "clip_low": 3e-4, "clip_high": 4e-4,
            }
        },
        "cispo": {
            "rl": {"estimator": "grpo", "surrogate": "cispo", "clip_low": 1.0, "clip_high": 2.0}
        },
        "zero": {
            "rl": {"estimator": "grpo", "problems_per_step": 64}, "filters": open_filters, **short
        },
        "control": {"protocol": {"calls": 0}},
        "calls4": {"protocol": {"calls": 4}},
        "calls8": {"protocol": {"calls": 8}},
    }  # fmt: skip
    for argument, keys in wanted.items():
        changed = {
            section: dataclasses.replace(getattr(paper, section), **values)
            for section, values in keys.items()
        }
        assert config.parse(module.get_config(argument)) == dataclasses.replace(paper, **changed)
    both = config.parse(module.get_config("grpo,control"))
    assert both.rl.estimator == "grpo" and both.protocol.calls == 0


def test_zerotir_is_the_papers():
    cfg = config.parse(importlib.import_module("configs.zerotir_7b").get_config())
    assert (cfg.rl.problems_per_step, cfg.rl.group_size, cfg.rl.minibatches) == (128, 16, 1)
    assert (cfg.rl.clip_low, cfg.rl.clip_high, cfg.rl.kl_coef, cfg.rl.entropy_coef) == (
        0.2, 0.28, 0.0, 0.0,
    )  # fmt: skip
    assert (cfg.optimizer.lr, cfg.optimizer.b1, cfg.optimizer.b2) == (1e-6, 0.9, 0.95)
    assert (cfg.optimizer.weight_decay, cfg.optimizer.clip_norm) == (0.0, 1.0)
    assert (cfg.critic.lr, cfg.critic.warmup, cfg.critic.clip) == (5e-6, 10, 0.2)
    assert (cfg.sampler.max_prompt, cfg.sampler.max_response) == (1024, 16_000)
    assert (cfg.filters.accuracy_low, cfg.filters.accuracy_high) == (1 / 16, 0.8)
    assert cfg.filters.samples == bounds.SAMPLES and cfg.filters.perplexity == 5.0
    assert cfg.needs_reference and not config.Config().needs_reference
    assert (cfg.protocol.calls, cfg.protocol.output_tokens, cfg.checkpoint.every) == (2, 256, 50)
    assert (cfg.reward.right, cfg.reward.wrong, cfg.reward.shape) == (1.0, 0.0, "strict")
    assert not (cfg.reward.misshapen or cfg.reward.failing or cfg.reward.executed)


@pytest.mark.parametrize("name", ["toolrl_1p5b", "toolrl_3b", "toolrl_7b", "toolrl_llama_3b"])
def test_each_toolrl_argument_changes_its_own_keys_only(name):
    module = importlib.import_module(f"configs.{name}")
    paper = config.parse(module.get_config())
    lengths = {"max_prompt": 1024, "max_response": 512, "ladder": (256, 1024)}
    wanted = {
        "ppo": {
            "rl": {"estimator": "gae", "group_size": 1},
            "sampler": lengths,
            "learner": {"row_tokens": 1536},
        },
        "gdpo": {"rl": {"estimator": "gdpo"}},
        "kl": {"rl": {"kl_coef": 0.001, "kl_in": "reward", "kl_estimator": "k1"}},
        "paper": {"toolrl": {"matching": "optimal", "schedule": "paper"}},
        "sft400": {"model": {"path": f"runs/{name}_sft400/model"}},
        "dynamic": {"toolrl": {"dynamic_scale": True}},
        "dynamic_length": {"toolrl": {"length": True, "dynamic_length": True}},
    }
    switches = ("length", "equal_max", "two_stage", "refined", "intermediate", "coarse")
    wanted |= {switch: {"toolrl": {switch: True}} for switch in switches}
    for argument, keys in wanted.items():
        changed = {
            section: dataclasses.replace(getattr(paper, section), **values)
            for section, values in keys.items()
        }
        made = config.parse(module.get_config(argument))
        assert made == dataclasses.replace(paper, **changed), argument
    assert set(wanted) | {"sft", "smoke"} == set(module.ARGUMENTS)


@pytest.mark.parametrize(
    ("recipe", "argument"),
    [("zerotir_7b", "ppo,grpo"), ("emergence", "grpo,control,ppo"), ("toolrl_1p5b", "ppo,gdpo")],
)
def test_two_estimators_are_an_error(recipe, argument):
    with pytest.raises(UserError, match=r"several estimators, \w+ \(\w+\), \w+ \(\w+\): give one"):
        importlib.import_module(f"configs.{recipe}").get_config(argument)


TOOLRL = {
    "sampler": {"max_prompt": 2048, "max_response": 1024, "temperature": 1.0, "top_p": 1.0},
    "rl": {
        "estimator": "grpo", "problems_per_step": 512, "group_size": 4, "minibatches": 4,
        "epochs": 1, "clip_low": 0.2, "clip_high": 0.2, "dual_clip": 0.0, "kl_coef": 0.0,
        "entropy_coef": 0.001, "gamma": 1.0, "lam": 1.0, "whiten": True,
    },
    "optimizer": {
        "lr": 1e-6, "warmup": 0, "decay": 0, "b1": 0.9, "b2": 0.999, "eps": 1e-8,
        "weight_decay": 0.01, "clip_norm": 1.0,
    },
    "critic": {"lr": 1e-5, "warmup": 0, "clip": 0.5},
    "learner": {"row_tokens": 3072},
    "eval": {"every": 5},
    "checkpoint": {"every": 15},
    "run": {"steps": 105},
    "protocol": {"markup": "toolrl", "calls": 0},
    "toolrl": {"matching": "greedy", "schedule": "released"},
}  # fmt: skip
CHANGES = {
    "": {},
    "ppo": {
        "rl": {"estimator": "gae", "group_size": 1},
        "sampler": {"max_prompt": 1024, "max_response": 512},
        "learner": {"row_tokens": 1536},
    },
    "kl": {"rl": {"kl_coef": 0.001, "kl_in": "reward", "kl_estimator": "k1"}},
    "sft": {
        "sampler": {"max_prompt": 3072},
        "optimizer": {"lr": 1e-5},
        "learner": {"row_tokens": 4096},
        "sft": {"epochs": 3, "warmup": 0.1, "examples_per_step": 32},
    },
}


@pytest.mark.parametrize("argument", CHANGES)
def test_toolrls_published_values(argument):
    """run_grpo.sh, run_ppo.sh and the authors' words on fine-tuning, written out."""
    made = config.to_dict(config.parse(toolrl_1p5b.get_config(argument)))
    for section, values in TOOLRL.items():
        wanted = values | CHANGES[argument].get(section, {})
        assert {key: made[section][key] for key in wanted} == wanted
    for section in CHANGES[argument].keys() - TOOLRL.keys():
        assert made[section] == CHANGES[argument][section]


@pytest.mark.parametrize(("one", "other"), [("smoke,ppo", "ppo,smoke"), ("smoke,sft", "sft,smoke")])
def test_the_order_of_arguments_does_not_matter(one, other):
    made = toolrl_1p5b.get_config(one).to_dict()
    assert made == toolrl_1p5b.get_config(other).to_dict()
    assert made["learner"]["row_tokens"] == 1024 and made["sampler"]["max_prompt"] == 480


@pytest.mark.parametrize("argument", ["coarse", "dynamic"])
def test_a_reward_of_calls_is_for_calls(argument):
    quickstart = importlib.import_module("configs.quickstart")
    assert config.parse(quickstart.get_config(f"toolrl,{argument}")).toolrl != config.ToolRl()
    with pytest.raises(UserError, match=f"changes ToolRL's reward: give :toolrl,{argument}$"):
        quickstart.get_config(argument)


def test_the_tool_quickstarts_rate_ends_with_its_last_step():
    quickstart = importlib.import_module("configs.quickstart")
    made = config.parse(quickstart.get_config("toolrl"))
    assert made.optimizer.decay == made.run.steps * made.rl.minibatches * made.rl.epochs


def test_the_papers_values_are_the_defaults():
    """ToRL: one call, text beyond it, nothing filtered, nothing added, one step a rollout."""
    made = config.Config()
    assert (made.protocol.calls, made.protocol.past) == (1, "text")
    assert (made.protocol.blocks, made.protocol.interpreter) == ("compat", "stateless")
    assert made.filters == config.Filters("keep", "keep", False, 0.0, 1.0, 1)
    assert (made.reward.execution, made.reward.overlong) == (0.0, 0.0)
    assert (made.rl.minibatches, made.rl.epochs, made.rl.dual_clip) == (1, 1, 0.0)
    assert (made.rl.clip_low, made.rl.clip_high, made.rl.kl_coef) == (0.2, 0.2, 0.0)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"rl": {"group_sze": 8}}, ["config.rl.group_sze", "mean config.rl.group_size?", "legal"]),
        ({"rll": {}}, ["config.rll", "mean config.rl?"]),
        ({"rl": {"zzz": 8}}, ["config.rl.zzz", "group_size", "kl_coef"]),
    ],
)
def test_unknown_keys_name_the_nearest_and_all(raw, words):
    message = refused(raw)
    assert all(word in message for word in words), message


def test_far_keys_are_not_guessed():
    assert "did you mean" not in refused({"rl": {"zzz": 8}})


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("rl", "group_size", "8", "int"),
        ("rl", "group_size", 8.0, "int"),
        ("rl", "group_size", True, "int"),
        ("rl", "clip_low", True, "float"),
        ("rl", "clip_low", "0.2", "float"),
        ("rl", "kl_estimator", "k4", "'k1', 'k2', 'k3'"),
        ("run", "wandb", 1, "bool"),
        ("run", "wandb", "true", "bool"),
        ("model", "path", None, "str"),
        ("data", "families", "sums", "tuple of str"),
        ("data", "families", ("sums", 3), "str"),
        ("model", "overrides", 3, "group of keys"),
        ("model", "dtype", "float16", "'float32', 'bfloat16'"),
    ],
)
def test_wrong_types_say_what_was_expected(section, key, value, expected):
    message = refused({section: {key: value}})
    assert f"config.{section}.{key}" in message and expected in message
    assert repr(value) in message or repr(3) in message


@pytest.mark.parametrize("raw", [3, {"rl": 3}, {"rl": None}, {"rl": "x"}])
def test_a_value_where_a_group_belongs(raw):
    assert "expected a group of keys" in refused(raw)


def test_whole_numbers_are_floats_where_floats_belong():
    assert config.parse({"optimizer": {"clip_norm": 2}}).optimizer.clip_norm == 2.0


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"learner": {"row_tokens": 100}}, ["row_tokens is 100", "at least", "3472"]),
        ({"rl": {"minibatches": 3}}, ["minibatches is 3", "128"]),
        ({"rl": {"group_size": 1}}, ["group_size is 1", "at least 2"]),
        ({"sampler": {"top_p": 0.0}}, ["top_p is 0.0"]),
        ({"sampler": {"top_p": 1.5}}, ["top_p is 1.5"]),
        ({"sampler": {"temperature": 0.0}}, ["temperature is 0.0"]),
        ({"run": {"steps": 0}}, ["config.run.steps is 0"]),
        ({"optimizer": {"lr": float("nan")}}, ["config.optimizer.lr is nan"]),
        ({"rl": {"group_size": 1}}, ["config.rl.group_size is 1", "at least 2"]),
        (
            {"rl": {"estimator": "gae", "group_size": 1}, "filters": {"zero_variance": True}},
            ["config.filters.zero_variance", "rl.group_size=1"],
        ),
        (
            {"rl": {"estimator": "gdpo", "kl_in": "reward", "kl_coef": 0.1}},
            ["config.rl.kl_in", "gdpo"],
        ),
        ({"toolrl": {"dynamic_length": True}}, ["config.toolrl.dynamic_length", "length too"]),
        (
            {"reward": {"kind": "toolrl"}, "eval": {"benchmarks": ("aime24",)}},
            ["config.eval.benchmarks", "evaluate_tools"],
        ),
        ({"toolrl": {"coarse": True}}, ["config.toolrl.coarse is True", "reward.kind=answer"]),
        ({"toolrl": {"schedule": "paper"}}, ["config.toolrl.schedule is 'paper'", "'released'"]),
        ({"toolrl": {"gold_thoughts": "drop"}}, ["config.toolrl.gold_thoughts", "'keep'"]),
        ({"reward": {"kind": "toolrl"}}, ["config.protocol.markup is 'torl'", "expected toolrl"]),
        *(
            (
                {"reward": {"kind": "toolrl", key: -0.5}, "protocol": {"markup": "toolrl"}},
                [f"config.reward.{key} is -0.5", "expected 0 with reward.kind=toolrl"],
            )
            for key in ("execution", "overlong")
        ),
        ({"rl": {"clip_low": -0.1}}, ["config.rl.clip_low is -0.1"]),
        ({"filters": {"perplexity": 1.0}}, ["config.filters.perplexity is 1.0", "above 1"]),
        ({"rl": {"kl_coef": float("nan")}}, ["config.rl.kl_coef is nan"]),
    ],
)
def test_impossible_values(raw, words):
    message = refused(raw)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("path", [*config.POSITIVE, *config.NOT_NEGATIVE])
def test_every_bound_is_checked(path):
    section, key = path.split(".")
    default = getattr(getattr(config.Config(), section), key)
    assert path.split(".")[1] in refused({section: {key: type(default)(-1)}})


def test_the_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().rl.group_size = 3


def test_a_config_dict_is_read_as_it_is():
    raw = ml_collections.ConfigDict({"model": {"overrides": {"layers": 2}}, "run": {"seed": 5}})
    made = config.parse(raw)
    assert made.run.seed == 5 and made.model.overrides == {"layers": 2}
