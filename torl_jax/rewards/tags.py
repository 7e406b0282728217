"""ZeroTIR's strict format (arXiv 2505.07773): is the answer where it should be?

    <think> ... </think> <answer> ... \\boxed{...} ... </answer>

The prompt has opened the thought. One `</think>`, then one `<answer>`, then one `</answer>`,
in what the policy wrote; a whole box in the answer; and an end of the policy's own. (The
release also asks for at most five tokens behind the answer: an episode ends with the token
in which `</answer>` does, so there are none.)
"""

from typing import Literal

from torl_jax.episode import End, Episode
from torl_jax.rewards.boxes import box_at

Fault = Literal["", "answer", "box", "tags"]

# What the release takes away where it is asked to; its recipes do not.
PENALTIES: dict[Fault, float] = {"": 0.0, "answer": -3.0, "box": -2.0, "tags": -1.0}


def fault(episode: Episode) -> Fault:
    """What is wrong: no answer, no box in it, or tags that are not once each and in order."""
    text = "".join(episode.policy_texts)
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start < 0 or episode.end is End.LENGTH:
        return "answer"
    if box_at(text[start:end]) is None:
        return "box"
    once = all(text.count(tag) == 1 for tag in ("</think>", "<answer>", "</answer>"))
    return "" if once and text.find("</think>") < start else "tags"
