"""What a step says on a terminal: one line of figures, as wide as a terminal at least is.

What is shown hangs on the reward: of answers, use of code; of tool calls, the parts of the
reward; supervised, the loss.
"""

from collections.abc import Mapping

Number = float | int | None
Figures = Mapping[str, Number]
Column = tuple[str, str, int, int]  # title, metrics key, width, most decimals

CODE: tuple[Column, ...] = (
    ("code", "rollout/code_ratio", 4, 2),
    ("pass", "rollout/pass_ratio", 4, 2),
)
PARTS: tuple[Column, ...] = (
    ("form", "rollout/reward_format", 4, 2),
    ("call", "rollout/reward_correctness", 4, 1),
)
# With a space between, 78 characters.
COLUMNS: tuple[Column, ...] = (
    ("reward", "rollout/reward", 6, 3),
    ("acc", "rollout/accuracy", 4, 2),
    *CODE,
    ("length", "rollout/response_length", 6, 1),
    ("entropy", "train/entropy", 7, 4),
    ("grad", "train/grad_norm", 5, 3),
    ("tok/s", "time/tokens_per_second", 5, 0),
    ("decode", "time/decode", 6, 2),
    ("tool", "time/tool", 4, 2),
    ("rwd", "time/reward", 4, 2),
    ("update", "time/update", 6, 2),
)
SUPERVISED: tuple[Column, ...] = (
    ("loss", "train/loss", 7, 4),
    ("entropy", "train/entropy", 7, 4),
    ("grad", "train/grad_norm", 6, 3),
    ("rate", "train/lr", 8, 6),
    ("epoch", "train/epoch", 6, 2),
    ("tokens", "train/trained_tokens", 7, 0),
    ("tok/s", "time/tokens_per_second", 6, 0),
    ("seconds", "time/step", 7, 2),
)
EVAL_COLUMNS = (
    ("accuracy", "eval/accuracy"),
    ("greedy accuracy", "eval/greedy_accuracy"),
    ("code ratio", "eval/code_ratio"),
)
EVAL_PARTS = (
    ("reward", "eval/reward"),
    ("greedy reward", "eval/greedy_reward"),
    ("format", "eval/reward_format"),
    ("correctness", "eval/reward_correctness"),
    ("accuracy", "eval/accuracy"),
)
EVAL_SUPERVISED = (("held-out loss", "eval/loss"),)


def trained(figures: Figures) -> bool:
    """Whether the row is a training step's."""
    return any(key in figures for _, key, _, _ in COLUMNS)


def evaluated(figures: Figures) -> bool:
    """Whether the row holds an evaluation."""
    return any(key in figures for _, key in (*EVAL_COLUMNS, *EVAL_SUPERVISED))


def chosen(figures: Figures) -> tuple[Column, ...]:
    """The columns for a row."""
    if "rollout/reward" not in figures and "train/lr" in figures:
        return SUPERVISED
    if PARTS[0][1] not in figures:
        return COLUMNS
    start = COLUMNS.index(CODE[0])
    return (*COLUMNS[:start], *PARTS, *COLUMNS[start + len(CODE) :])


def header(figures: Figures) -> str:
    """The lines above the figures: titles, and over some what they have in common."""
    shown = chosen(figures)
    titles = " ".join([" step", *(f"{title:>{width}}" for title, _, width, _ in shown)])
    if shown is SUPERVISED:
        return titles
    return f"{'---- seconds in -----':>{len(titles)}}\n{titles}"


def step_line(step: int, figures: Figures) -> str:
    """The figures of a training step under `header`."""
    cells = [fit(figures.get(key), width, places) for _, key, width, places in chosen(figures)]
    return " ".join([f"{step:>5}", *cells])


def eval_line(step: int, figures: Figures) -> str:
    """The figures of an evaluation, those that were taken."""
    shown = EVAL_PARTS if "eval/greedy_reward_format" in figures else EVAL_COLUMNS
    shown = EVAL_SUPERVISED if "eval/loss" in figures else shown
    cells = [f"{title} {fit(figures[key], 5, 3).strip()}" for title, key in shown if key in figures]
    return f"{step:>5} eval: {', '.join(cells)}"


def fit(value: Number, width: int, decimals: int) -> str:
    """`value` in `width` characters with up to `decimals` decimals; stars if there is no room."""
    if value is None:
        return f"{'-':>{width}}"
    shapes = [f"{value:.{places}f}" for places in range(decimals, -1, -1)]
    shapes += [f"{value / 1e3:.1f}k", f"{value / 1e3:.0f}k", f"{value / 1e6:.0f}M"]
    shapes += [f"{value:.0e}".replace("e+0", "e").replace("e+", "e"), "*" * width]
    shown = next(shape for shape in shapes if len(shape) <= width)
    return f"{shown:>{width}}"
