"""Writes a trained policy as a Hugging Face folder that transformers loads.

  python -m torl_jax.export --checkpoint=runs/quickstart --out=exported

`--checkpoint` is a working directory (its newest checkpoint), one step of it
(WORKDIR/checkpoints/STEP), or a Hugging Face folder. The folder gets
`config.json`, safetensors, the tokenizer's files, and `torl_config.json`, from
which `solve` knows the prompt and the budgets.
"""

import json
import shutil
from pathlib import Path

from absl import flags

from torl_jax import cli, config
from torl_jax.errors import UserError
from torl_jax.model import hf, hub
from torl_jax.policy import RECIPE, load

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def export(checkpoint: str, out: Path, dtype: str) -> None:
    """Writes the folder under a temporary name and renames it when it is whole."""
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


def main(argv: list[str]) -> None:
    """The entry point."""
    values = flags.FLAGS
    if argv or not values.checkpoint or not values.out:
        raise UserError("give --checkpoint=WORKDIR and --out=DIR, and nothing else; see --help")
    export(values.checkpoint, Path(values.out), values.dtype)
    print(f"wrote {values.out}")


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Working directory, checkpoint, or model folder.")
    flags.DEFINE_string("out", None, "Folder to write; must be new or empty.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Precision of the weights.")
    cli.run(main, __doc__ or "")
