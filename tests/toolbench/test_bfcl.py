"""Our side of BFCL's handler: the prompt, the two decodings; the class, where BFCL is installed."""

import copy
import importlib
import importlib.util
import json
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.errors import UserError
from torl_jax.protocols import dialogue
from torl_jax.toolbench import bfcl

FUNCTION = {
    "name": "area",
    "description": "Area of a triangle.\nIn square units.",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer", "description": "The base."},
            "unit": {"type": "string", "description": "Unit.", "enum": ["m", "cm"]},
        },
        "required": ["base"],
    },
}


def test_the_released_vectors(shared):
    vectors = json.loads((shared / "vectors" / "toolrl.json").read_text())["evaluation_vectors"]
    for case in vectors["bfcl_decoding"]:
        assert bfcl.decode_ast(case["output"]) == case["ast"], case["id"]
        assert bfcl.decode_execute(case["output"]) == case["execute"], case["id"]


@pytest.mark.parametrize(
    ("block", "ast", "execute"),
    [
        ('{"name": "f", "parameters": {"x": 2}}', [{"f": {"x": 2}}], ["f(x=2)"]),
        ('bad\n{"name": "f", "parameters": {}}\n\n[1]\n3', [{"f": {}}], ["f()"]),
        ('{"name": "NONE", "parameters": {"x": 1}}', [], []),
        ('{"name": "none"}', [], []),
        ('{"name": 3, "parameters": {}}', [], []),
        ('{"parameters": {"x": 1}}', [], []),
        ('{"name": "f", "parameters": null}', [], ["f()"]),
        ('{"name": "f", "parameters": [1]}', [], []),
        (
            '{"name": "a.b", "parameters": {"s": "q\\"\\n"}}',
            [{"a.b": {"s": 'q"\n'}}],
            ["a.b(s='q\"\\n')"],
        ),
        ("", [], []),
    ],
)
def test_decoding(block, ast, execute):
    reply = f"<think> <tool_call> </think>\n<tool_call>\n{block}\n</tool_call>"
    assert (bfcl.decode_ast(reply), bfcl.decode_execute(reply)) == (ast, execute)
    # Never closed: to the end.
    reply = reply.removesuffix("</tool_call>")
    assert (bfcl.decode_ast(reply), bfcl.decode_execute(reply)) == (ast, execute)


def test_the_last_block_counts_to_its_end():
    call = '<tool_call>\n{"name": "%s", "parameters": {}}\n</tool_call>'
    reply = call % "f" + "\n" + call % "g" + '\n{"name": "h", "parameters": {}}'
    assert bfcl.decode_ast(reply) == [{"g": {}}] and bfcl.decode_execute(reply) == ["g()"]


@given(st.text(alphabet=st.sampled_from('<>/tol_cal{}[]":,\n 1nameprtso'), max_size=80))
def test_any_reply_is_decoded(text):
    for reply in (text, f"<tool_call>\n{text}"):
        assert all(len(call) == 1 for call in bfcl.decode_ast(reply))
        assert all(isinstance(call, str) for call in bfcl.decode_execute(reply))


def test_a_single_turn():
    asked = [{"role": "user", "content": " How big? "}]
    system, user = bfcl.prompt(bfcl.hinted(asked, bfcl.SINGLE), [FUNCTION])
    assert (system["role"], user["role"]) == ("system", "user")
    assert system["content"].endswith("\n") and not system["content"].endswith("\n\n")
    assert (
        "1. Name: area\nDescription: Area of a triangle. In square units.\nParameters: "
        + json.dumps(FUNCTION["parameters"]["properties"])
    ) in system["content"]
    assert "required" not in system["content"]
    assert user["content"] == (
        f"**Dialogue Records History**\n<user> How big?\n{bfcl.SINGLE} </user>"
    )
    assert asked == [{"role": "user", "content": " How big? "}]


def test_several_turns_with_results():
    reply = '<think> t </think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>'
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": reply},
        {"role": "tool", "name": "f()", "content": "1"},
        {"role": "tool", "name": "g()", "content": "2"},
    ]
    begun = (
        f"**Dialogue Records History**\n<user> Go. </user>\n\n{reply}\n"
        "<obs> The call f() returned: 1 </obs>\n<obs> The call g() returned: 2 </obs>\n\n"
    )
    assert bfcl.history(messages) == f"{begun}<user> {bfcl.AFTER} </user>"
    messages += [
        {"role": "assistant", "content": "<response> Done. </response>"},
        {"role": "user", "content": "More."},
    ]
    # The hint after a result is there only where nothing else follows.
    after = f"{begun}<response> Done. </response>\n\n<user> More. </user>"
    assert bfcl.history(messages) == after


def test_a_system_message_of_its_own_is_kept_and_a_trained_prompt_taken():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    trained = dialogue.system([dialogue.Tool("fly", "flies", {})]).replace("**Steps", "**Our Steps")
    system, user = bfcl.prompt(messages, [FUNCTION], trained)
    assert "**Our Steps" in system["content"] and "fly" not in system["content"]
    assert system["content"].endswith("\n\nBe brief.\n") and "brief" not in user["content"]


def test_a_function_without_parameters_is_a_tool():
    assert bfcl.tool({"name": "now"}).entry(1) == "1. Name: now\nDescription: \nParameters: {}"


INSTALLED = importlib.util.find_spec("bfcl_eval") is not None


@pytest.mark.skipif(INSTALLED, reason="bfcl-eval is installed")
def test_without_bfcl_the_error_says_how_to_get_it():
    with pytest.raises(UserError, match="pip install bfcl-eval"):
        bfcl.handler()


class Tokens:
    """A tokenizer as BFCL's runner loads one."""

    name_or_path = "somewhere"
    special_tokens_map: ClassVar = {"bos_token": "<s>", "additional_special_tokens": ["<x>"]}
    chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )


@pytest.mark.skipif(not INSTALLED, reason="needs bfcl-eval")
@pytest.mark.parametrize(
    ("entry", "hint"), [("simple_python_0", "single"), ("multi_turn_base_0", "multi")]
)
def test_the_handler_prompts_and_decodes(entry, hint):
    handler = bfcl.handler()(
        model_name="m", temperature=0.0, registry_name="mine", is_fc_model=False
    )
    handler.tokenizer = Tokens()
    turn = [{"role": "user", "content": "How big?"}]
    question = {"id": entry, "question": [copy.deepcopy(turn)], "function": [FUNCTION]}
    data = handler._pre_query_processing_prompting(question)
    data = handler.add_first_turn_message_prompting(data, question["question"][0])
    shown = bfcl.prompt(bfcl.hinted(turn, bfcl.HINTS[hint]), [FUNCTION])
    wanted = "<s>" + "".join(f"[{m['role']}]{m['content']}" for m in shown) + "[assistant]"
    assert handler._format_prompt(data["message"], data["function"]) == wanted
    assert question["question"][0] == turn
    reply = '<tool_call>\n{"name": "area", "parameters": {"base": 2}}\n</tool_call>'
    data = handler._add_assistant_message_prompting(data, {"model_responses": reply})
    calls = handler.decode_execute(reply, has_tool_call_tag=False)
    assert calls == ["area(base=2)"]
    said = {"model_responses_decoded": calls}
    data = handler._add_execution_results_prompting(data, ["3"], said)
    assert "The call area(base=2) returned: 3" in handler._format_prompt(
        data["message"], [FUNCTION]
    )
    data = handler._add_next_turn_user_message_prompting(data, turn)
    assert data["message"][-1]["content"].endswith(bfcl.HINTS[hint])
    assert handler.decode_ast(reply, "Python", False) == [{"area": {"base": 2}}]


@pytest.mark.skipif(not INSTALLED, reason="needs bfcl-eval")
def test_a_registered_name_is_one_of_bfcls():
    build = importlib.import_module("bfcl_eval._llm_response_generation").build_handler
    bfcl.register("mine")
    assert build("mine", 0.0).registry_name == "mine"
