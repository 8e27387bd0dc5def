"""Built-in questions with words around them, for practice.

People ask in more ways than a prompt set does, and where a question is put in an unfamiliar way a policy that has only
practised familiar ones says more that is garbled. So some are practised in company. The reward model still reads the
question as it is: it was trained on questions like that, and of others it knows less what is liked (docs/trials.md,
"What terse garbles").
"""

import random
from functools import cache

from engine.models.chat import Message
from engine.prompts import load_prompts

FRAMES = (
    "One more thing: {}", "By the way, {}", "Hello again. {}", "Next one. {}", "I have been thinking. {}",
    "My friend asks: {}", "{} I am only curious.", "{} Over to you.",
)  # fmt: skip


@cache
def _built_in() -> frozenset[str]:
    return frozenset(load_prompts("everyday"))


def framed(conversation: list[Message], share: float, rng: random.Random) -> list[Message]:
    """`conversation`, in a `share` of cases with words around it where it is a built-in question. What a person asked
    stays as it is: it may be in any language."""
    if len(conversation) > 1 or conversation[0]["content"] not in _built_in() or rng.random() >= share:
        return conversation
    return [{**conversation[0], "content": rng.choice(FRAMES).format(conversation[0]["content"])}]
