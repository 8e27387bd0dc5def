"""Which questions to ask a person about: those whose answers an ensemble of reward heads disagrees on.

The uncertainty of a group of answers is the mean, over its pairs, of the standard deviation between heads of the
pair's score difference (query by committee, Seung et al. 1992): where heads that fit the same feedback order a pair
differently, the feedback does not say yet. Groups are taken greedily, each by its uncertainty times its distance to
those taken before (farthest-first, Gonzalez 1985), so that one open question is not asked ten times.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.methods.reward import RewardModel
from engine.models.states import states_at
from engine.sampling.answers import Answer
from engine.training.passes import Encoded


def uncertainty(each: Tensor) -> float:
    """Of scores [answers, heads] of the answers to one prompt."""
    apart = each.unsqueeze(0) - each.unsqueeze(1)  # [answers, answers, heads]
    upper = torch.ones(len(each), len(each), dtype=torch.bool).triu(1)
    return float(apart[upper].std(-1).mean())


def choose(uncertainties: Sequence[float], features: Tensor, count: int) -> list[int]:
    """Places of `count` groups; features: [groups, width], alike where they ask the same."""
    features = torch.nn.functional.normalize(features - features.mean(0), dim=-1)
    worth = torch.tensor(uncertainties)
    distance = torch.ones(len(worth))
    taken: list[int] = []
    while len(taken) < min(count, len(worth)):
        value = worth * distance
        value[taken] = -1.0
        taken.append(int(value.argmax()))
        distance = torch.minimum(distance, 0.5 * (1 - features @ features[taken[-1]]))
    return taken


@torch.no_grad()
def most_telling(reward: RewardModel, groups: Sequence[Sequence[Answer]], count: int) -> list[int]:
    """Places of the `count` groups of answers that a ranking of would tell `reward` (of several heads) most."""
    uncertainties, features = [], []
    for group in groups:
        ids, mask, places = reward.pad([Encoded(a.prompt_ids, a.ids) for a in group])
        states, scores = [], []
        for role, head in reward.members:
            with reward.roles.acting(role) as model:
                question, after = states_at(model, ids, mask, places).unbind(1)
            states.append(after)
            scores.append(head(question, after, reward.tokens(places)))
        uncertainties.append(uncertainty(torch.cat(scores, -1).cpu()))
        features.append(states[0].float().cpu().mean(0))
    return choose(uncertainties, torch.stack(features), count)
