"""An episode for the eyes: coloured by author, or plain with a margin.

Colour says who wrote what on a terminal; where there is none, a margin does:

    prompt │ What is 347*28+91?
     model │ ```python
     model │ print(347*28+91)
     model │ ```
     model │ ```output
      tool │ 9807
      tool │ ```
     model │ The answer is \\boxed{9807}.

Text from a model or a program may hold control codes; they are shown as
pictures (␛ for escape), never sent to the terminal.
"""

from rich.text import Text

from torl_jax.episode import Author, Episode, Score, Segment

STYLES = {Author.PROMPT: "dim", Author.POLICY: "green", Author.TOOL: "cyan"}
NAMES = {Author.PROMPT: "prompt", Author.POLICY: "model", Author.TOOL: "tool"}

# C0 and DEL have pictures in Unicode; C1 (an escape of its own on some terminals) has none.
PICTURES = (
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
    | {127: "\u2421"}
    | dict.fromkeys(range(0x80, 0xA0), "\ufffd")
)


def visible(text: str) -> str:
    """`text` with control characters, save newline and tab, shown as pictures."""
    return text.translate(PICTURES)


def paint(segment: Segment) -> Text:
    """One segment in its author's colour, as it would be printed live."""
    return Text(visible(segment.text), style=STYLES[segment.author], end="")


def verdict(episode: Episode, score: Score | None = None) -> str:
    """One line: how the episode ended, what it cost and, if scored, what it earned."""
    parts = [f"end: {episode.end.value}"]
    if episode.error:
        parts.append(visible(" ".join(episode.error.split())))
    if score is not None:
        parts.append(f"{'correct' if score.correct else 'wrong'}, reward {score.total:+g}")
        parts += [f"{name} {value:+g}" for name, value in score.parts.items()]
    calls = len(episode.turns)
    parts.append(f"{calls} call{'' if calls == 1 else 's'}")
    model, tool = episode.count(Author.POLICY), episode.count(Author.TOOL)
    parts.append(f"{model} model + {tool} tool tokens")
    return " · ".join(parts)


def render(episode: Episode, score: Score | None = None) -> Text:
    """The episode for a terminal: segments in their authors' colours, then the verdict.

    Without the last line the text is exactly the episode's (control codes made visible).
    """
    text = Text()
    for segment in episode.segments:
        text.append_text(paint(segment))
    if not text.plain.endswith("\n"):
        text.append("\n")
    good = score is not None and score.correct
    return text.append(f"[{verdict(episode, score)}]", style="bold green" if good else "bold")


def plain(episode: Episode, score: Score | None = None) -> str:
    """The episode without colour: each line after its author's name, then the verdict.

    Ends with a newline. A segment begins a line of its own even where the text runs on.
    """
    lines = []
    run_on = False
    for segment in episode.segments:
        text = visible(segment.text)
        if not text:
            continue
        # After text that runs on, a newline only ends that line: it is no empty line.
        body = text.removeprefix("\n") if run_on else text
        run_on = not text.endswith("\n")
        rows = body.removesuffix("\n").split("\n") if body else []
        lines += [f"{NAMES[segment.author]:>6} │ {row}".rstrip() for row in rows]
    return "\n".join([*lines, f"       └ {verdict(episode, score)}", ""])
