"""Practice puts words around built-in questions, and scores answers as if they had been asked as they are."""

import random

from engine.methods.frames import FRAMES, framed
from engine.methods.online import train_online
from engine.methods.ppo import PPO
from engine.methods.settings import PPOConfig
from engine.models.chat import encode_prompt
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.prompts import load_prompts
from tests.engine.toys import TokenScorer

BUILT_IN = [[{"role": "user", "content": p}] for p in load_prompts("everyday")[:8]]


def test_words_stand_around_a_share_of_the_built_in_questions():
    rng = random.Random(0)
    for conversation in BUILT_IN:
        assert framed(conversation, 0.0, rng) is conversation
        found = framed(conversation, 1.0, rng)[0]["content"]
        assert found in [frame.format(conversation[0]["content"]) for frame in FRAMES]
    often = sum(framed(BUILT_IN[0], 0.5, rng) is not BUILT_IN[0] for _ in range(1000))
    assert 430 < often < 570


def test_what_a_person_asked_stays_as_it_is():
    own = [{"role": "user", "content": "Is my cat happier than I am?"}]
    longer = [*BUILT_IN[0], {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Why?"}]
    assert framed(own, 1.0, random.Random(0)) is own and framed(longer, 1.0, random.Random(0)) is longer


def test_the_policy_reads_the_words_around_and_the_scorer_the_question_alone():
    roles = Roles(load_base("pocket"))
    roles.add("policy", rank=2)
    read, scored = [], []

    class Watched(PPO):
        def learn(self, experience, seed):
            drawn = experience.rollout
            read.extend(ids[mask].tolist() for ids, mask in zip(drawn.prompt_ids, drawn.prompt_mask, strict=True))
            return super().learn(experience, seed)

    class Scorer(TokenScorer):
        def scores(self, answers):
            scored.extend((a.prompt_ids, a.messages[-1]["content"]) for a in answers)
            return super().scores(answers)

    config = PPOConfig(updates=2, episodes=8, samples=2, epochs=1, max_new_tokens=4, rank=2, framed=1.0)
    train_online("ppo", roles, Watched(roles, config), Scorer(len), BUILT_IN, config)

    def ids(text):
        return encode_prompt(roles.tokenizer, [{"role": "user", "content": text}])

    assert len(read) == len(scored) == 16
    for prompt, (plain, question) in zip(read, scored, strict=True):
        assert plain == ids(question)
        assert prompt in [ids(frame.format(question)) for frame in FRAMES]
    assert all(read[i] == read[i + 1] for i in range(0, 16, 2)), "answers to one prompt are to the same words"
    crowded = PPOConfig(updates=1, episodes=8, epochs=1, max_new_tokens=4, rank=2, framed=1.0)
    roles.tokenizer.model_max_length = 4 + max(len(ids(c[0]["content"])) for c in BUILT_IN)
    read.clear()
    train_online("ppo", roles, Watched(roles, crowded), Scorer(len), BUILT_IN, crowded)
    assert all(len(prompt) + 4 <= roles.tokenizer.model_max_length for prompt in read), "where there is room"
