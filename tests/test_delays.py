"""The benchmark of the pipeline: its tools are as slow as recorded ones, its seconds wall time."""

from concurrent.futures import Future

import numpy as np
import pytest

from benchmarks import pipeline
from torl_jax.episode import Call, Observation


def test_tools_are_held_back_as_long_as_recorded_ones():
    delays = pipeline.Delayed(None, limit=2.0)
    drawn = [delays.draw() for _ in range(20_000)]
    shares = [drawn.count(seconds) / len(drawn) for seconds in (0.03, 0.3, 2.0)]
    np.testing.assert_allclose(shares, [0.70, 0.25, 0.05], atol=0.01)


def test_a_held_back_answer_is_the_answer():
    class Tool:
        def submit(self, call):
            done = Future()
            done.set_result(Observation(call.text, True, "ok"))
            return done

    class Failing(Tool):
        def submit(self, call):
            done = Future()
            done.set_exception(OSError("gone"))
            return done

    delays = pipeline.Delayed(None, limit=0.01)
    assert pipeline.Waiting(Tool(), delays).submit(Call("1")).result(60).text == "1"
    with pytest.raises(OSError, match="gone"):
        pipeline.Waiting(Failing(), delays).submit(Call("1")).result(60)


def test_seconds_a_step_are_wall_time_behind_the_first_two():
    rows = [{"time/at_update": 10.0 * n, "time/update": 1.0} for n in range(5)]
    assert pipeline.seconds_a_step(rows) == pytest.approx(10)
