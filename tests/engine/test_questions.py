"""Which questions a run practises on, and which it is measured by."""

import pytest

import engine
from engine.jobs import questions
from engine.jobs.config import read_config
from engine.prompts import load_prompts
from engine.store import conversations, feedback

CONFIG = read_config({})


def asked(found):
    return [c[-1]["content"] for c in found]


def bring_in(store, texts):
    return [conversations.add_prompt(store, text, "import:1") for text in texts]


def judge(store, version, prompt):
    rows = [{"text": t, "tokens": 1, "seed": 0, "finish": "stop"} for t in "ab"]
    first, second = conversations.add_responses(store, prompt, version, {}, rows)
    feedback.add_ranking(store, prompt, [[first], [second]])


def test_a_share_of_the_persons_own_questions_is_kept_for_comparing(store, base_version, pocket_roles):
    own = [f"What do you say to {n}?" for n in range(100)]
    prompts = dict(zip(own, bring_in(store, own), strict=True))
    kept = questions.kept_back(store, CONFIG.reward.held_out)
    assert 5 <= len(kept) <= 25
    compared = asked(questions.compared(store, pocket_roles, CONFIG))
    assert compared[: len(kept)] == kept and len(compared) == CONFIG.compare.prompts
    practised, measuring = (asked(found) for found in questions.practised(store, pocket_roles, CONFIG, 96))
    assert not set(practised) & set(compared)
    assert set(practised) >= set(own) - set(kept) and set(measuring) < set(practised)

    judge(store, base_version, prompts[kept[0]])  # now it is learned from, so it measures no more
    assert questions.kept_back(store, CONFIG.reward.held_out) == kept[1:]
    assert kept[0] in asked(questions.practised(store, pocket_roles, CONFIG, 96)[0])


def test_own_questions_are_half_of_a_comparison_at_most(store, pocket_roles):
    bring_in(store, [f"What do you say to {n}?" for n in range(400)])
    config = read_config({"compare": {"prompts": 20}})
    compared = asked(questions.compared(store, pocket_roles, config))
    assert len(compared) == 20 and compared[10:] == load_prompts("everyday-test")[:10]


def test_a_few_questions_are_all_practised_on(store, pocket_roles):
    bring_in(store, [f"What do you say to {n}?" for n in range(questions.ENOUGH - 1)])
    assert questions.kept_back(store, CONFIG.reward.held_out) == []
    assert asked(questions.compared(store, pocket_roles, CONFIG)) == load_prompts("everyday-test")[:64]


def test_a_question_that_leaves_no_room_is_left_out(store, pocket_roles):
    bring_in(store, [f"{n} " + "word " * 600 for n in range(100)])
    assert questions.kept_back(store, CONFIG.reward.held_out)
    assert asked(questions.compared(store, pocket_roles, CONFIG)) == load_prompts("everyday-test")[:64]
    assert asked(questions.practised(store, pocket_roles, CONFIG, 96)[0]) == load_prompts("everyday")
    with pytest.raises(engine.UserError, match="leave no room for a question"):
        questions.practised(store, pocket_roles, CONFIG, 100_000)
