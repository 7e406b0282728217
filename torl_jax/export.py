"""Writes a trained policy as a Hugging Face folder that transformers loads.

  python -m torl_jax.export --checkpoint=runs/quickstart --out=exported

`--checkpoint` is a working directory (its newest checkpoint), one step of it
(WORKDIR/checkpoints/STEP), or a Hugging Face folder. The folder gets
`config.json`, safetensors, the tokenizer's files, and `torl_config.json`, from
which `solve` knows the prompt and the budgets.
"""

from pathlib import Path

from absl import flags

from torl_jax import cli
from torl_jax.errors import UserError
from torl_jax.publish import publish


def main(argv: list[str]) -> None:
    """The entry point."""
    values = flags.FLAGS
    if argv or not values.checkpoint or not values.out:
        raise UserError("give --checkpoint=WORKDIR and --out=DIR, and nothing else; see --help")
    publish(values.checkpoint, Path(values.out), values.dtype)
    print(f"wrote {values.out}")


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Working directory, checkpoint, or model folder.")
    flags.DEFINE_string("out", None, "Folder to write; must be new or empty.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Precision of the weights.")
    cli.run(main, __doc__ or "")
