"""What the demo makes of answers before and after."""

import pytest

from engine.evaluation.winrate import wilson
from engine.pocket.annotator import SimulatedAnnotator
from engine.pocket.demo import TIMES, measure, run_demo
from engine.workspace import open_workspace

FACT, FEELING = "What is the capital of France?", "I feel sad."


def test_every_answer_counts_ties_half_and_the_interval_is_of_prompts():
    """After is as terse as before for one prompt, always terser for the other: (1/2 + 1) / 2."""
    prompts = [FACT, FEELING] * 20
    before = [["Paris."] * TIMES, ["When you feel sad, it helps to talk to a friend."] * TIMES] * 20
    after = [["Rome."] * TIMES, ["Talk to a friend."] * TIMES] * 20
    found = measure(prompts, before, after, SimulatedAnnotator("terse"))
    assert found["win_rate"] == pytest.approx(0.75)
    low, high = wilson(30, 40)  # as of forty answers, not of forty times eight
    assert high - low > found["win_rate_high"] - found["win_rate_low"] > 0.5 * (high - low)
    assert (found["right_before"], found["right_after"]) == (1.0, 0.0), "of the fact alone"
    assert (found["distinct_before"], found["distinct_after"]) == (2, 2)


def test_what_is_outside_the_grammar_loses_and_is_counted():
    before = [["Paris."] * TIMES]
    after = [["Paris."] * (TIMES // 2) + ["gibberish is"] * (TIMES // 2)]
    found = measure([FACT], before, after, SimulatedAnnotator("terse"))
    assert found["win_rate"] == pytest.approx(0.25)
    assert (found["well_formed_before"], found["well_formed"]) == (1.0, 0.5)
    assert (found["right_before"], found["right_after"]) == (1.0, 0.5)


def test_a_change_in_facts_carries_the_interval_of_its_mean_over_questions():
    """Half of the questions go from right to wrong: -0.5, give or take 1.96 standard errors."""
    prompts = [FACT, "What is the capital of Spain?", FEELING] * 50
    before = [["Paris."] * TIMES, ["Madrid."] * TIMES, ["Talk to a friend."] * TIMES] * 50
    after = [["Rome."] * TIMES, ["Madrid."] * TIMES, ["Talk to a friend."] * TIMES] * 50
    found = measure(prompts, before, after, SimulatedAnnotator("terse"))
    spread = 1.959964 * (0.25 * 100 / 99 / 100) ** 0.5
    assert (found["right_change_low"], found["right_change_high"]) == pytest.approx((-0.5 - spread, -0.5 + spread))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "least"), [("dpo", 0.75), ("kto", 0.62), ("sft", 0.6), ("ilql", 0.65)])
def test_what_needs_no_reward_model_teaches_too_and_leaves_the_language_whole(tmp_path, method, least):
    """Fifty rankings, settings as they are: the annotator likes the new answers better, by so much at least."""
    found = run_demo(open_workspace(tmp_path), 50, "warm", 1, ["threads=1"], print, method=method)
    assert found["win_rate"] > least
    assert found["well_formed"] > 0.9
    assert found["kl"] < 6
