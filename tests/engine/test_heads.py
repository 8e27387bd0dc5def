"""Heads learn as fast whatever the base's width and the size of its states."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.feedback.examples import Ranking, Valued
from engine.methods.ilql import train_ilql
from engine.methods.ppo import train_ppo
from engine.methods.reward import train_reward
from engine.methods.settings import ILQLConfig, PPOConfig, RewardConfig
from engine.models.heads import REACH, WIDTH, RewardHead, ScalarHead
from engine.models.load import load_base
from engine.models.roles import Roles
from engine.models.shift import FILE, QHead
from tests.conftest import tiny_model, tiny_tokenizer
from tests.engine.toys import CONVERSATION, TokenScorer, next_token

PROMPT = (("user", "w1 w2"),)
TEXTS = ("w3 w4", "w5", "w6 w7 w8")


def roles_with_states(folder, size):
    """The same language model whatever the `size`, a power of two: its last states are so many times as large, and
    its output layer's weights as many times as small."""
    model = tiny_model()
    with torch.no_grad():
        model.get_decoder().norm.weight.mul_(size)
        model.get_output_embeddings().weight.div_(size)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return Roles(load_base(str(folder)))


def reward_scores(roles):
    rankings = [Ranking(PROMPT, TEXTS, (0, 1, 2), (True,) * 3)]
    reward, _ = train_reward(roles, rankings, [], RewardConfig(rank=4, min_steps=20))
    return reward.score_texts([(CONVERSATION, text, True) for text in TEXTS])


def ppo_figures(roles):
    roles.add("policy", rank=4)
    config = PPOConfig(max_new_tokens=6, rank=4, updates=4, episodes=16)
    figures = train_ppo(roles, TokenScorer(lambda ids: ids.count(7)), [CONVERSATION], config)
    return torch.tensor([figures[name] for name in ("reward", "kl", "value_loss", "policy_loss")])


def ilql_choices(roles):
    roles.add("policy", rank=4)
    answers = [Valued(PROMPT, text, value, "rating", True) for text, value in zip(TEXTS, (1.0, 0.0, -1.0), strict=True)]
    train_ilql(roles, answers, ILQLConfig(rank=4))
    return next_token(roles, "policy")


@pytest.mark.parametrize("learned", [reward_scores, ppo_figures, ilql_choices])
def test_larger_states_change_nothing_that_is_learned(learned, tmp_path):
    small, large = (roles_with_states(tmp_path / str(size), size) for size in (16, 256))
    assert large.head_scale == pytest.approx(small.head_scale / 16, rel=1e-5)
    torch.testing.assert_close(learned(large), learned(small), atol=1e-3, rtol=1e-3)


def test_the_built_in_models_states_are_taken_as_they_are(pocket_roles):
    assert pocket_roles.width == WIDTH
    assert pocket_roles.head_scale == 1.0


@pytest.mark.parametrize("width", [WIDTH, 4 * WIDTH])
def test_a_step_moves_a_head_as_far_whatever_the_width(width):
    torch.manual_seed(0)
    states = torch.randn(1, width) * 5
    scale = REACH / float(states.abs().sum())
    head = ScalarHead(width, scale=scale)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.0)
    head(states).sum().backward()
    optimizer.step()
    assert float(head(states)) == pytest.approx(-1e-3 * (REACH + 1), rel=1e-3)  # and the bias


@pytest.mark.parametrize("width", [WIDTH, 4 * WIDTH])
def test_hidden_numbers_of_heads_begin_as_spread_whatever_the_width(width):
    torch.manual_seed(0)
    states = torch.randn(400, width) * 3
    head = RewardHead(width, gates=1)
    with torch.no_grad():
        head.turned.fill_(1.0)  # scores are now tanh(1.8 z) times what is seen, z normal
        gates = head(states, torch.eye(1, width).expand(400, -1), torch.full((400,), 16))
    assert float(gates.std()) == pytest.approx(0.76, rel=0.05)
    scale = REACH / float(states.abs().sum(-1).mean())
    inner = QHead(width, 64, 3, scale)._inside(states).atanh()
    assert float(inner.detach().std()) == pytest.approx(0.87, rel=0.1)


def test_q_heads_remember_what_they_take_states_times(tmp_path):
    roles = roles_with_states(tmp_path / "base", 64)
    learned = ilql_choices(roles)
    roles.save("policy", tmp_path / "saved", {"kind": "policy"})
    again = Roles(load_base(str(tmp_path / "base")))
    again.load("tuned", tmp_path / "saved")
    torch.testing.assert_close(next_token(again, "tuned"), learned, atol=1e-5, rtol=0)
    kept = {name: value for name, value in load_file(tmp_path / "saved" / FILE).items() if "scale" not in name}
    save_file(kept, tmp_path / "saved" / FILE)
    with pytest.raises(UserError, match="earlier version of the studio"):
        again.load("other", tmp_path / "saved")
