"""A policy as a Hugging Face folder: `config.json`, safetensors, the tokenizer's files, and
`torl_config.json`, its recipe.
"""

import json
import shutil
from pathlib import Path

from torl_jax import config
from torl_jax.errors import UserError
from torl_jax.model import hf, hub
from torl_jax.policy import RECIPE, load

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)


def publish(checkpoint: str, out: Path, dtype: str = "float32") -> None:
    """Writes the folder under a temporary name and renames it when it is whole.

    `checkpoint` is what `policy.load` takes.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"{out} exists and is not empty; choose another --out")
    policy = load(checkpoint)
    part = out.with_name(out.name + ".part")
    if part.exists():
        raise UserError(f"{part} is left from an export that died; remove it and try again")
    name = policy.cfg.model.tokenizer or policy.cfg.model.path
    source = hub.resolve(name) if hub.is_name(name) else Path(name)
    if not (source / "tokenizer.json").is_file():
        raise UserError(
            f"no tokenizer.json in {source.absolute()}, the run's tokenizer folder; export from "
            "the directory that the run was started in, or put the folder back"
        )
    hf.save(part, policy.shape, policy.params, dtype=dtype)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, part / name)
    (part / RECIPE).write_text(json.dumps(config.to_dict(policy.cfg), indent=2) + "\n")
    if out.is_dir():
        out.rmdir()
    part.rename(out)
