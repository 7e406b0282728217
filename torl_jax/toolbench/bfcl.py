"""Our side of a BFCL handler: what the policy is shown, and how its calls are read.

BFCL (the `bfcl-eval` package) brings the questions, carries out the calls and scores them. Its
runner is pointed at a served checkpoint (docs/toolrl.md, "Evaluation"):

  python -m torl_jax.toolbench.bfcl --name=mine -- generate --model=mine \\
      --test-category=non_live --skip-server-setup --local-model-path=FOLDER

The policy gets two messages, as in training: the system message with the tools, and the dialogue
as one user message. Every user turn ends with a hint: for a single turn to call what fits, or a
tool named None, or to say what is missing; for several turns to plan and to try. What a call gave
back is an <obs> sentence; where the dialogue ends with one, the user asks to finish or to go on.
Replies stand in the dialogue as they were written, thoughts included.

Deviations from the released handler: any chat template, not ChatML alone; the hint for several
turns is chosen by BFCL's own id of the question, where the release leaves it to an argument that
stock BFCL does not pass.

This module is part of the words world: no jax.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from torl_jax import cli
from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.protocols.chat import ChatTemplate
from torl_jax.toolbench.blocks import last_block, values

NO_TOOL = "none"  # in any case: a tool that stands for not calling any
SINGLE = (
    "Call one tool or several if they do what is asked and their parameters are known. If no tool "
    "fits, or a parameter is missing, say so without a call, or call a tool named None."
)
MULTI = (
    "Plan the steps that this needs and take them with the tools; several rounds are possible, and "
    "a call that fails may be tried in another way."
)
AFTER = (
    "If all that was asked is done, say so without a call. If not, or if a call failed, go on with "
    "further calls."
)
HINTS: Mapping[str, str] = {"single": SINGLE, "multi": MULTI}

Message = Mapping[str, Any]


def tool(function: Mapping[str, Any]) -> dialogue.Tool:
    """A function of BFCL's as a prompt shows it: its schema's properties as they stand.

    What a schema says beside them, such as `required`, is not shown.
    """
    schema = function.get("parameters") or {}
    return dialogue.Tool(
        str(function["name"]),
        str(function.get("description") or ""),
        schema.get("properties") or {},
    )


def prompt(
    messages: Sequence[Message], functions: Sequence[Mapping[str, Any]], trained: str = ""
) -> list[dict[str, str]]:
    """The system and the user message for a dialogue of BFCL's.

    `messages` are of the roles system, user, assistant and tool; a tool's `name` is the call that
    was carried out. `trained`: a system message that the policy was trained on, whose tools are
    exchanged; else ours.
    """
    tools = [tool(function) for function in functions]
    system = dialogue.with_tools(trained, tools) if trained else dialogue.system(tools)
    own = [str(m["content"]).strip() for m in messages if m["role"] == "system"]
    system = "\n\n".join([system.rstrip("\n"), *own]) + "\n"
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": history([m for m in messages if m["role"] != "system"])},
    ]


def history(messages: Sequence[Message]) -> str:
    """The dialogue as one user message."""
    text = f"{dialogue.HISTORY}\n"
    before = ""
    for message in messages:
        role, content = message["role"], str(message["content"]).strip()
        if before:
            text += "\n" if role == "tool" else "\n\n"
        if role == "tool":
            text += f"<obs> The call {message['name']} returned: {content} </obs>"
        else:
            text += f"<user> {content} </user>" if role == "user" else content
        before = role
    return text + (f"\n\n<user> {AFTER} </user>" if before == "tool" else "")


def calls(reply: str) -> list[dict[str, Any]]:
    """The calls of a reply's last block: objects with a name, but for the tool named None."""
    found = [
        value
        for value in values(last_block(reply) or "")
        if isinstance(value, dict) and isinstance(value.get("name"), str)
    ]
    return [call for call in found if call["name"].strip().lower() != NO_TOOL]


def decode_ast(reply: str) -> list[dict[str, Any]]:
    """The calls as [{name: parameters}]; one without `parameters` is left out."""
    return [
        {call["name"]: call["parameters"]}
        for call in calls(reply)
        if isinstance(call.get("parameters"), dict)
    ]


def decode_execute(reply: str) -> list[str]:
    """The calls as Python, ["f(x=2)"]; without `parameters` there are no arguments."""
    found = []
    for call in calls(reply):
        given = call.get("parameters")
        if given is None or isinstance(given, dict):
            arguments = ", ".join(f"{key}={value!r}" for key, value in (given or {}).items())
            found.append(f"{call['name']}({arguments})")
    return found


def handler(trained: str = "", context: int = 0) -> type:
    """The handler class for BFCL's runner; UserError where `bfcl-eval` is not installed.

    `trained` as for `prompt`. `context`: tokens that the server has for a prompt and its reply, 0
    for as many as the model. The tokenizer that BFCL loads gives the chat template.
    """
    oss = _part("bfcl_eval.model_handler.local_inference.base_oss_handler").OSSHandler
    override = _part("typing_extensions").override  # BFCL demands the mark of PEP 698
    several: Callable[[str], bool] = _part("bfcl_eval.utils").contain_multi_turn_interaction

    class Handler(oss):
        """A policy with ToolRL's protocol, prompted in plain text."""

        @override
        def _pre_query_processing_prompting(self, test_entry: dict) -> dict:
            kind = "multi" if several(test_entry["id"]) else "single"
            return {"message": [], "function": test_entry["function"], "hint": HINTS[kind]}

        @override
        def add_first_turn_message_prompting(
            self, inference_data: dict, first_turn_message: list[dict]
        ) -> dict:
            inference_data["message"].extend(hinted(first_turn_message, inference_data["hint"]))
            return inference_data

        @override
        def _add_next_turn_user_message_prompting(
            self, inference_data: dict, user_message: list[dict]
        ) -> dict:
            inference_data["message"].extend(hinted(user_message, inference_data["hint"]))
            return inference_data

        @override
        def _format_prompt(self, messages: list[dict], function: list[dict]) -> str:
            shown = prompt(messages, function, trained)
            own = self.tokenizer
            variables = {k: v for k, v in own.special_tokens_map.items() if isinstance(v, str)}
            template = ChatTemplate(own.chat_template, variables, str(own.name_or_path))
            return template.render(shown)

        @override
        def _query_prompting(self, inference_data: dict):
            if context:
                self.max_context_length = min(self.max_context_length, context)
            return super()._query_prompting(inference_data)

        @override
        def decode_ast(self, result, language, has_tool_call_tag):
            return decode_ast(result)

        @override
        def decode_execute(self, result, has_tool_call_tag):
            return decode_execute(result)

    return Handler


def hinted(messages: Sequence[Message], hint: str) -> list[dict[str, Any]]:
    """The messages, each of the user's with `hint` at its end."""
    return [
        {**m, "content": f"{str(m['content']).strip()}\n{hint}"} if m["role"] == "user" else {**m}
        for m in messages
    ]


def register(name: str, trained: str = "", context: int = 0) -> None:
    """Makes BFCL's commands know `name`; the rest as for `handler`."""
    table = _part("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING[name] = table.ModelConfig(
        model_name=name,
        display_name=f"{name} (Prompt)",
        url="",
        org="",
        license="",
        model_handler=handler(trained, context),
        is_fc_model=False,
    )


def _part(name: str) -> Any:
    """A module of bfcl-eval's, or of what it brings."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"BFCL's runner cannot be imported ({error}): pip install bfcl-eval, best into an "
            "environment of its own, for it pins old versions"
        ) from error


def main(arguments: list[str]) -> None:
    """Registers --name and hands the other arguments to BFCL's own command."""
    name, file = flags.FLAGS.name, flags.FLAGS.system
    if not name or not arguments:
        raise UserError("give --name=NAME -- and BFCL's arguments; see --help")
    try:
        trained = Path(file).read_text(encoding="utf-8") if file else ""
    except OSError as error:
        raise UserError(f"--system={file} cannot be read ({error.strerror})") from None
    register(name, trained, flags.FLAGS.context)
    _part("bfcl_eval.__main__").cli(arguments)


if __name__ == "__main__":
    flags.DEFINE_string("name", None, "What BFCL is to call the model.")
    flags.DEFINE_integer("context", 0, "The server's, in tokens; 0: the model's.", lower_bound=0)
    flags.DEFINE_string("system", "", "Text file with a system message that it was trained on.")
    cli.run(main, __doc__ or "")
