"""Prompt templates: a text with one place for the question."""

from torl_jax.errors import UserError

QUESTION = "{question}"


def check(template: str, calls: int) -> None:
    """UserError unless `template` has its one `{question}`, and `calls` is a budget."""
    found = template.count(QUESTION)
    if found != 1:
        raise UserError(
            f"prompt template has {QUESTION} {found} times: write it exactly once, "
            "where the problem's text goes"
        )
    if calls < 0:
        raise UserError(f"calls is {calls}: give 0 (no tool) or more")


def fill(template: str, question: str) -> str:
    """The template with the question in its place; other braces stay."""
    return template.replace(QUESTION, question)
