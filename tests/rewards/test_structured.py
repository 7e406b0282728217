"""Whole episodes under ToolRL's reward."""

import pytest

from torl_jax.episode import Author, End, Episode, Observation, Problem, Score, Segment, Turn
from torl_jax.rewards.structured import Structured
from torl_jax.rewards.toolrl import MalformedGold, ToolRLReward

CALL = '<tool_call>\n{"name": "weather", "parameters": {"city": "Oslo"}}\n</tool_call>'
GOLD = f"<think> look </think>\n{CALL}"
ANSWER = "<think> done </think>\n<response> 11 degrees </response>"
ENDS = ("<|im_end|>", "<|endoftext|>")
REWARD = Structured(ToolRLReward(), ENDS)
LIVE = Structured(ToolRLReward(), ENDS, live=True)


def episode(*turns: str, gold: str = GOLD, end: End = End.EOS) -> Episode:
    segments = [Segment(Author.PROMPT, (1,), "Weather?")]
    for i, text in enumerate(turns):
        if i:
            segments.append(Segment(Author.TOOL, (3,), f"\n<obs> {CALL} </obs>\n\n"))
        segments.append(Segment(Author.POLICY, (2,), text, (-1.0,)))
    seen = Turn(None, Observation("[]", True, "ok"))
    return Episode(Problem("0", "Weather?", gold), 0, tuple(segments), (seen,) * len(turns), end)


def score(reward: Structured, *turns: str, step: int = 1, **about) -> Score:
    return reward.submit(episode(*turns, **about), step).result()


@pytest.mark.parametrize("end", ENDS)
def test_an_end_of_text_token_is_no_part_of_the_output(end):
    whole = Score(4.0, True, {"format": 1.0, "correctness": 3.0, "length": 0.0})
    assert score(REWARD, GOLD + end) == whole
    assert score(REWARD, GOLD + end, end=End.LENGTH).parts["format"] == 0, "it was written out"
    assert score(REWARD, GOLD + "<|other|>").parts["format"] == 0


def test_an_aborted_episode_scores_nothing():
    assert score(REWARD, GOLD, end=End.ABORT) == Score(0.0, False)


def test_the_step_reaches_the_schedule():
    staged = Structured(ToolRLReward(two_stage=True), ENDS)
    assert [score(staged, GOLD, step=step).total for step in (0, 29, 30)] == [2.0, 2.0, 3.5]


def test_a_live_episode_is_scored_over_its_turns_and_never_by_what_the_tool_wrote():
    gold = f"{GOLD}\n{ANSWER}"
    assert score(LIVE, GOLD, ANSWER + "<|im_end|>", gold=gold).total == 4.0
    silent = score(LIVE, "<think> hm </think>", ANSWER, gold=gold)
    assert silent.parts["correctness"] == -3.0, "the observation repeats the very call"


def test_thoughts_of_golds_can_be_dropped():
    gold = GOLD.replace("look", "a <tool_call> is needed")
    with pytest.raises(MalformedGold):
        score(REWARD, GOLD, gold=gold)
    assert score(Structured(ToolRLReward(), ENDS, thoughts="drop"), GOLD, gold=gold).total == 4.0
