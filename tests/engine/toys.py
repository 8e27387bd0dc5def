"""Small problems whose answers are known, for the methods' tests."""

import torch

from engine.methods.settings import PPOConfig
from engine.models.chat import encode_prompt
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.training.context import Silent, Stopped
from tests.conftest import tiny_model, tiny_tokenizer

CONVERSATION = [{"role": "user", "content": "w1 w2"}]
CONFIG = PPOConfig(max_new_tokens=12, rank=4, epochs=1, minibatches=1, max_grad_norm=1e9, temperature=0.9)
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [4], [12, 3], [7, 7, 7, 7], [9, 4, 5], [6]]  # token ids, of several lengths


def able_folder(folder):
    """A tiny Llama whose logits reach +-12, so that a policy can become sure of a token."""
    model = tiny_model()
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(3)
    model.save_pretrained(folder)
    tiny_tokenizer(pad=False).save_pretrained(folder)
    return folder


def policy_on(folder, rank=8):
    roles = Roles(load_base(str(folder)))
    roles.add("policy", rank=rank)
    return roles


@torch.no_grad()
def shake(roles, role, scale=0.1):
    """Give a fresh adapter, which changes nothing yet, weights that do."""
    generator = torch.Generator().manual_seed(1)
    for p in roles.parameters(role):
        p.add_(scale * torch.randn(p.shape, generator=generator).to(p))


@torch.no_grad()
def next_token(roles, role, conversation=CONVERSATION):
    """log-probabilities [vocabulary] of the first token of an answer."""
    ids = torch.tensor([encode_prompt(roles.tokenizer, conversation)])
    with roles.acting(role) as model:
        return model(ids).logits[0, -1].log_softmax(-1)


class TokenScorer:
    """Scores a prompt and its answer by their tokens; stands where a reward model stands."""

    def __init__(self, function):
        self.function = function

    def scores(self, answers):
        return torch.tensor([float(self.function(a.prompt_ids + a.ids)) for a in answers])


class StopsAt(Silent):
    """Someone asks the run to stop at this step of a stage, or of any."""

    def __init__(self, step, stage=""):
        self.step, self.asked = step, stage

    def stage(self, name, done, total):
        if done == self.step and self.asked in ("", name):
            raise Stopped
