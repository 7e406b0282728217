"""Messages become the very bytes that transformers makes of them, today and tomorrow."""

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from torl_jax.errors import UserError
from torl_jax.protocols.chat import ChatTemplate

ASKED = [{"role": "system", "content": " Be <brief> & kind.\n"}, {"role": "user", "content": "Hé?"}]
# The shape of Qwen2.5's: a header line and an end mark, and a system message of its own.
CHATML = """\
{%- set told = messages[0].role == 'system' %}
{%- if not told %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' and not loop.first %}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
# The shape of Llama-3.2's: a first token, a dated system message, contents trimmed.
LLAMA = """\
{{- bos_token }}
{%- if date_string is not defined %}
    {%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- endif %}
{%- set told = messages[0]['role'] == 'system' %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Knowledge ends: long ago\\nToday: ' + date_string + '\\n\\n' }}
{{- (messages[0]['content'] | trim if told else '') + '<|eot_id|>' }}
{%- for message in messages[(1 if told else 0):] %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# What else templates use: blocks trimmed, a marked answer, JSON, an absent token.
MARKED = """\
{% for message in messages %}
  {% generation %}
{{ message | tojson }}{{ unk_token }}
  {% endgeneration %}
{% endfor %}
Now:
"""
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "marked": MARKED}


def folder(path: Path, template: object, file: str | None = None) -> Path:
    """A tokenizer folder with `chat_template` in its settings and `file` beside them."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.add_special_tokens(["<|begin_of_text|>", "<|eot_id|>"])
    bpe.save(str(path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"content": "<|begin_of_text|>", "special": True, "__type": "AddedToken"},
        "eos_token": "<|eot_id|>",
        "unk_token": None,
        "add_bos_token": False,
        "chat_template": template,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    if file is not None:
        (path / "chat_template.jinja").write_text(file)
    return path


def theirs(path: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    return lambda messages: tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
    )


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_bytes_are_those_of_transformers(tmp_path, name, as_file):
    template = TEMPLATES[name]
    path = folder(tmp_path, None, template) if as_file else folder(tmp_path, template)
    render, ours = theirs(path), ChatTemplate.of(path)
    for messages in (ASKED, ASKED[1:], [*ASKED, {"role": "assistant", "content": "\n Ja. "}]):
        if name == "marked":  # JSON changes the system message, which is refused below
            messages = [m for m in messages if m["role"] != "system"]
        assert ours.render(messages) == render(messages)


def test_qwens_own_template(shared):
    path = shared / "tokenizers/qwen2.5"
    render, ours = theirs(path), ChatTemplate.of(path)
    for messages in (ASKED, ASKED[1:]):
        assert ours.render(messages) == render(messages)
    assert ours.render(ASKED).endswith("Hé?<|im_end|>\n<|im_start|>assistant\n")


@given(text=st.text(), asked=st.text())
def test_any_text_is_kept(text, asked):
    template = ChatTemplate(CHATML, {}, "here")
    messages = [{"role": "system", "content": text}, {"role": "user", "content": asked}]
    assert template.render(messages) == (
        f"<|im_start|>system\n{text}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_no_clock_is_read(tmp_path):
    assert "Today: 26 Jul 2024\n" in ChatTemplate.of(folder(tmp_path, LLAMA)).render(ASKED)
    clock = "{{ messages[0].content }}{{ strftime_now('%Y-%m-%d') }}"
    assert ChatTemplate(clock, {}, "here").render(ASKED[1:]) == "Hé?2024-07-26"


def test_the_file_counts_before_the_settings_and_default_among_named(tmp_path):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert ChatTemplate.of(folder(tmp_path, named)).render(ASKED[1:]) == "D"
    assert ChatTemplate.of(folder(tmp_path, named, "F")).render(ASKED[1:]) == "F"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "chat_template of tokenizer_config.json: none"),
        ("  ", "none"),
        ([{"name": "tool_use", "template": "T"}, 3], "templates named tool_use, none 'default'"),
        ("{% if %}", "no valid Jinja2"),
    ],
)
def test_no_template_is_one_line(tmp_path, template, reason):
    with pytest.raises(UserError, match=reason) as caught:
        ChatTemplate.of(folder(tmp_path, template))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"chat_template": "\xff"}'])
def test_settings_that_cannot_be_read(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer_config\.json .*fetch it again"):
        ChatTemplate.of(tmp_path)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no system\nrole') }}", r"refuses .* system, user \(no system role\)"),
        ("{{ messages[7].content }}", "refuses"),
        ("{{ messages.append(1) }}", "refuses"),  # the sandbox
        ("{{ messages[1].content }}", "leaves the system message out"),
    ],
)
def test_a_template_that_refuses_the_messages(template, reason):
    with pytest.raises(UserError, match=reason) as caught:
        ChatTemplate(template, {}, "here").render(ASKED)
    assert "\n" not in str(caught.value)


def test_no_messages_at_all():
    with pytest.raises(ValueError, match="no messages"):
        ChatTemplate(CHATML, {}, "here").render([])
