"""A ToolRL policy served: its calls as OpenAI's, and the server's own tools carried out.

What the policy says is scripted; prompts, tools, server and client are the real things.
"""

import json

import pytest

from tests.serving_openai.server import MODEL, ROOT, Server, ask, plain, streamed
from torl_jax.protocols import dialogue
from torl_jax.protocols.chat import ChatTemplate

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>\n"
TOOLS = '''"""Tools of a test."""


def add(a: int, b: int = 1) -> int:
    """Adds two numbers."""
    return a + b
'''


@pytest.fixture(scope="module")
def toolrl(tmp_path_factory):
    """A folder with the tiny base and a chat template, a recipe for it, and a file of tools."""
    folder = tmp_path_factory.mktemp("toolrl")
    for file in (ROOT / "assets/tiny-base").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(settings | {"chat_template": TEMPLATE})
    )
    tools = folder / "own.py"
    tools.write_text(TOOLS)
    recipe = folder / "recipe.py"
    recipe.write_text(
        "from configs import quickstart\n"
        "def get_config():\n"
        "    c = quickstart.get_config()\n"
        "    c.protocol.markup = 'toolrl'\n"
        "    c.protocol.calls = 0\n"
        "    c.reward.kind = 'toolrl'\n"
        "    return c\n"
    )
    return folder, recipe, tools


# The policy says what the test says: sampled tokens are those of a text, whatever the weights.
SCRIPTED = """
from torl_jax.sampler import engine as module
from torl_jax.protocols.text import Tokenizer
text = Tokenizer({folder!r})
said = [text.encode(each) for each in {turns!r}]
original = module.Engine.decode
def decode(self):
    chunks = []
    original(self) if not any(s.taken for s in self.table.slots) else self._read()
    for slot in self.table.slots:
        if slot.live:
            # A turn begins behind the prompt, or behind what a tool has written.
            turn = text.decode(slot.tokens[slot.prompt:]).count("</obs>")
            begin = slot.__dict__.setdefault("begins", {{}}).setdefault(turn, len(slot.tokens))
            at = len(slot.tokens) - begin
            tokens = (said[turn] + [text.eos_ids[0]])[at : at + 5][: slot.remaining]
            slot.tokens.extend(tokens)
            slot.cached += len(tokens)
            chunks.append(module.Chunk(slot, tuple(tokens), (0.0,) * len(tokens)))
    return chunks
module.Engine.decode = decode
"""
CALLED = (
    '<think> I add. </think>\n<tool_call>\n{"name": "add", "parameters": {"a": 4}}\n</tool_call>'
)
ANSWERED = "<think> Done. </think>\n<response> It is 5. </response>"
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


def serving(toolrl, cache, turns, *flags):
    folder, recipe, _ = toolrl
    change = SCRIPTED.format(folder=str(folder), turns=turns)
    context = ("--context=5000", "--slots=2", f"--name={MODEL}")
    return Server(
        f"--checkpoint={folder}", f"--config={recipe}", *context, *flags, change=change + LONGER,
        cache=cache,
    )  # fmt: skip


# The tiny base has 512 positions, and a prompt with tools has more.
LONGER = """
import dataclasses
from torl_jax import policy
load = policy.load
def longer(*args):
    found = load(*args)
    return dataclasses.replace(found, shape=dataclasses.replace(found.shape, max_positions=8192))
policy.load = longer
"""


def test_a_toolrl_policy(toolrl, cache):
    with serving(toolrl, cache, [CALLED, ANSWERED], f"--tools={toolrl[2]}") as server:
        calls_are_openais(server.client(), toolrl[0])
        its_own_tools_are_carried_out(server.client())
        assert ", markup toolrl, " in server.line and ", tools: add, " in server.line
        assert server.get("/health").json()["tools"] == ["add"]
        assert server.end()[0] == 0


def calls_are_openais(client, folder):
    whole = ask(client, tools=[ADD], temperature=0)
    (choice,) = whole.choices
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert choice.message.reasoning_content == "I add."
    assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 4})
    chunks = list(ask(client, tools=[ADD], temperature=0, stream=True))
    (called,) = [c.choices[0].delta for c in chunks if c.choices[0].delta.tool_calls]
    (again,) = called.tool_calls
    assert again.function.model_dump() == call.function.model_dump() and again.index == 0
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    # The prompt is that of the dialogue, with the whole history.
    history = [
        {"role": "user", "content": "Add one to four."},
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "5"},
    ]
    asked = client.chat.completions.create(model=MODEL, messages=history, tools=[ADD], max_tokens=1)
    messages = [
        {"role": "system", "content": dialogue.system([dialogue.Tool.from_openai(ADD)])},
        {"role": "user", "content": dialogue.history(history)},
    ]
    prompt = ChatTemplate.of(folder).render(messages)
    assert asked.usage.prompt_tokens == plain(client, prompt, max_tokens=1).usage.prompt_tokens
    # Without tools the text is the content as it stands, and the budget cuts it.
    assert ask(client).choices[0].message.content == CALLED
    cut = ask(client, tools=[ADD], max_tokens=8).choices[0]
    assert cut.finish_reason == "length" and CALLED.startswith(cut.message.content)


def its_own_tools_are_carried_out(client):
    wanted = f'{CALLED}\n<obs> [{{"name": "add", "results": 5}}] </obs>\n\n{ANSWERED}'
    asked = {"extra_body": {"execute_tools": True}, "temperature": 0}
    (choice,) = ask(client, **asked).choices
    assert (choice.message.content, choice.finish_reason) == (wanted, "stop")
    texts, _, _ = streamed(ask(client, **asked, stream=True))
    assert "".join(texts[0]) == wanted
