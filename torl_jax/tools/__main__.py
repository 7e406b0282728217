"""Shows tools as a policy will see them, and calls them as it would.

  python -m torl_jax.tools weather.py
  python -m torl_jax.tools api.yaml#http://localhost:8000 --call '{"name": "f", "parameters": {}}'
  python -m torl_jax.tools "mcp:my-server --fast" --system

What is read: FILE.py (its public functions), an OpenAPI 3 document (FILE.json, FILE.yaml or
a URL; after # the server's URL), mcp:COMMAND or mcp:URL. `--call` may have several lines;
what it prints on stdout is what the policy would read. Exit code 0 where all of them did well,
1 where a tool's answer is an error or came too late, 2 for bad input.
"""

import logging
import sys

from absl import flags

from torl_jax import cli
from torl_jax.envs.tools import LIMIT, ToolEnv
from torl_jax.episode import Call, Problem
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.tools.opening import opened
from torl_jax.tools.toolbox import ToolFailure


def main(argv: list[str]) -> None:
    """The entry point."""
    values = flags.FLAGS
    if not argv:
        raise UserError("give FILE.py, an OpenAPI document or mcp:SERVER; see --help")
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    with opened(argv, 1, values.environment, values.header) as toolbox:
        if values.call is None:
            tools = [each.shown() for each in toolbox.functions.values()]
            print(dialogue.system(tools) if values.system else dialogue.tool_list(tools))
            return
        tool = ToolEnv(toolbox, values.timeout, values.limit).open(Problem("call", "", ""))
        try:
            seen = tool.submit(Call(values.call)).result()
        except ToolFailure as error:
            raise UserError(f"the call could not be made: {error}") from error
        print(seen.text)
        print(f"[{seen.status}; {seen.seconds:.3f} s]", file=sys.stderr)
    sys.exit(0 if seen.passed else 1)


if __name__ == "__main__":
    flags.DEFINE_string("call", None, "Lines of calls, as in a tool block, to be carried out.")
    flags.DEFINE_bool("system", False, "Show the whole system message, not the list alone.")
    flags.DEFINE_multi_string("environment", [], "A variable that the tools get; repeatable.")
    flags.DEFINE_multi_string(
        "header", [], "A header for servers; $NAME is a variable; repeatable."
    )
    flags.DEFINE_float("timeout", 10.0, "Seconds that one call may take.")
    flags.DEFINE_integer("limit", LIMIT, "Characters of a result that are shown.")
    cli.run(main, __doc__ or "")
