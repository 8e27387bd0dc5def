"""Implicit Q-learning against value iteration, and as the textbook's Q-learning in its limit."""

import random
from dataclasses import replace

import pytest
import torch

from engine.feedback.examples import Valued
from engine.methods import losses
from engine.methods.ilql import q_losses, train_ilql
from engine.methods.settings import ILQLConfig
from engine.models.roles import Roles
from engine.models.shift import QHead
from engine.sampling.answers import answer
from engine.sampling.settings import Sampling
from tests.engine.toys import CONVERSATION, able_folder, next_token, policy_on

STATES, ACTIONS, STEPS = 5, 4, 4


class Maze:
    """A random deterministic MDP whose every step pays; the state counts the steps, so values differ by time."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.walk = torch.randint(STATES, (STATES, ACTIONS), generator=generator)
        self.pay = torch.rand(STATES, ACTIONS, generator=generator)

    def value_iteration(self, gamma):
        """Q [steps, states, actions] of the optimal policy."""
        following = torch.zeros(STATES)
        table = []
        for _ in range(STEPS):
            table.insert(0, self.pay + gamma * following[self.walk])
            following = table[0].max(-1).values
        return torch.stack(table)

    def run(self, actions):
        """(states, rewards) [rows, steps] of walks from state 0."""
        states = torch.zeros(actions.shape, dtype=torch.long)
        for t in range(1, actions.shape[1]):
            states[:, t] = self.walk[states[:, t - 1], actions[:, t - 1]]
        return states, self.pay[states, actions]


def table_losses(tables, v, actions, rewards, config):
    """The method's losses of two tables of Q [rows, steps, actions] and one of V [rows, steps]."""
    q = [t.gather(-1, actions.unsqueeze(-1)).squeeze(-1) for t in tables]
    mask = torch.ones_like(actions, dtype=torch.bool)
    return q_losses(q, [t.logsumexp(-1) for t in tables], torch.minimum(*q), v, rewards, mask, config)


def learn(maze, actions, config, steps=1500, rate=0.03):
    """Tabular ILQL: Q1, Q2 [steps * states, actions] and V are tables, the losses are the method's own."""
    states, rewards = maze.run(actions)
    cells = states + STATES * torch.arange(STEPS)
    q = [torch.zeros(STEPS * STATES, ACTIONS, requires_grad=True) for _ in range(2)]
    v = torch.zeros(STEPS * STATES, requires_grad=True)
    optimizer = torch.optim.Adam([*q, v], lr=rate)
    for _ in range(steps):
        parts = table_losses([t[cells] for t in q], v[cells], actions, rewards, config)
        optimizer.zero_grad()
        (parts[0] + parts[1] + config.conservative * parts[2]).div(len(actions)).backward()
        optimizer.step()
    return torch.minimum(*q).detach().reshape(STEPS, STATES, ACTIONS)


def greedy_walk(maze, q):
    state, taken, total = 0, [], 0.0
    for t in range(STEPS):
        action = int(q[t, state].argmax())
        taken.append((state, action))
        total += float(maze.pay[state, action])
        state = int(maze.walk[state, action])
    return taken, total


@pytest.mark.parametrize("seed", range(3))
def test_its_greedy_policy_is_value_iterations(seed):
    maze = Maze(seed)
    actions = torch.cartesian_prod(*[torch.arange(ACTIONS)] * STEPS)  # every walk there is
    config = ILQLConfig(gamma=0.9, lam=0.0, expectile=0.99, conservative=0.0)
    found = learn(maze, actions, config)
    optimal = maze.value_iteration(0.9)
    assert greedy_walk(maze, found)[0] == greedy_walk(maze, optimal)[0]
    visited = [(t, s) for t in range(STEPS) for s in maze.run(actions)[0][:, t].unique().tolist()]
    best = torch.stack([optimal[t, s] for t, s in visited])
    assert torch.stack([found[t, s] for t, s in visited]).sub(best).abs().max() < 0.1


def test_it_stitches_a_walk_better_than_any_in_the_data():
    """No walk in the data is good from end to end; parts of different walks together are."""
    maze = Maze(4)
    every = torch.cartesian_prod(*[torch.arange(ACTIONS)] * STEPS)
    returns = maze.run(every)[1].sum(-1)
    mediocre = every[(returns < returns.quantile(0.6)) & (returns > returns.quantile(0.2))]
    in_data = float(maze.run(mediocre)[1].sum(-1).max())

    found = learn(maze, mediocre, ILQLConfig(gamma=1.0, lam=0.0, expectile=0.97, conservative=0.02))
    _, stitched = greedy_walk(maze, found)
    assert stitched > in_data + 0.1

    # Behaviour cloning of the same data, and of its best tenth, does not get there.
    for data in (mediocre, mediocre[maze.run(mediocre)[1].sum(-1).argsort()[-len(mediocre) // 10 :]]):
        states, _ = maze.run(data)
        counts = torch.zeros(STEPS, STATES, ACTIONS)
        for t in range(STEPS):
            counts[t].index_put_((states[:, t], data[:, t]), torch.ones(len(data)), accumulate=True)
        assert greedy_walk(maze, counts)[1] < stitched - 0.1


def test_one_gradient_step_is_the_textbook_update():
    """With V(s') = max Q(s', .), lambda 0 and steps of alpha / 2 on L_Q, Q <- Q + alpha [r + gamma max Q' - Q]."""
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(3, ACTIONS, generator=generator)
    alpha, gamma, reward = 0.3, 0.9, 0.7
    state, action, following = 0, 2, 1
    expected = table.clone()
    expected[state, action] += alpha * (reward + gamma * table[following].max() - table[state, action])

    q = table.clone().requires_grad_(True)
    cells = torch.tensor([[state, following]])
    best = torch.stack([table[state].max(), table[following].max()]).unsqueeze(0)
    rewards, actions = torch.tensor([[reward, 0.0]]), torch.tensor([[action, 0]])
    config = ILQLConfig(gamma=gamma, lam=0.0, conservative=0.0)

    def loss(steps):
        return table_losses([q[cells]] * 2, best, actions[:, :2], rewards, config)[0] * steps

    # Both heads are this one table, and the second step's own update is taken off.
    (gradient,) = torch.autograd.grad(loss(1), q)
    gradient[following] = 0
    assert torch.allclose(q.detach() - alpha / 4 * gradient, expected, atol=1e-6)


def test_the_expectile_nears_the_maximum():
    values = torch.tensor([0.1, 0.5, 0.9, 0.3])
    found = []
    for expectile in (0.5, 0.9, 0.999):
        v = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.Adam([v], lr=0.01)
        q = values.reshape(1, 4, 1)
        for _ in range(3000):
            config = ILQLConfig(expectile=expectile)
            actions, rewards = torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4)
            loss = table_losses([q, q], v.expand(1, 4), actions, rewards, config)[1]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(float(v.detach()))
    assert found[0] == pytest.approx(0.45, abs=0.01)  # the mean
    assert found[0] < found[1] < found[2]
    assert found[2] == pytest.approx(0.9, abs=0.01)  # the maximum


def test_a_language_model_learns_which_of_its_answers_were_good(tmp_path):
    """The word that was judged best is said most, though it is rare in the data; saved and loaded it answers alike."""
    roles = policy_on(able_folder(tmp_path / "base"))
    prompt = (("user", "w1 w2"),)
    worth = {"w3": -1.0, "w4": -0.5, "w5": 1.0, "w6": 0.0}
    counts = {"w3": 20, "w4": 10, "w5": 3, "w6": 7}
    data = [Valued(prompt, w, worth[w], "ranking", True) for w, n in counts.items() for _ in range(n)]
    train_ilql(roles, data, ILQLConfig(epochs=40, rank=8, learning_rate=3e-3, head_learning_rate=1e-2, beta=8.0))
    said = next_token(roles, "policy").exp()
    word = {w: roles.tokenizer.convert_tokens_to_ids(w) for w in worth}
    assert said[word["w5"]] == max(said[i] for i in word.values())
    assert said[word["w5"]] > 0.5
    imitation = roles.shifts.pop("policy")
    assert next_token(roles, "policy").exp()[word["w3"]] > 0.4  # without the shift, what the data said most
    roles.shifts["policy"] = imitation

    roles.save("policy", tmp_path / "saved", {"kind": "policy"})
    again = Roles(roles.base)
    again.peft = None
    again = policy_on(tmp_path / "base")
    again.load("tuned", tmp_path / "saved")
    assert torch.allclose(next_token(again, "tuned"), next_token(roles, "policy"), atol=1e-5)
    sampling = Sampling(max_new_tokens=4)
    pair = [answer(r, role, [CONVERSATION] * 20, sampling, list(range(20))) for r, role in
            ((again, "tuned"), (roles, "policy"))]  # fmt: skip
    assert [a.text for a in pair[0]] == [a.text for a in pair[1]]
    # The log-probabilities that sampling reports are the shifted ones.
    first = pair[0][0]
    assert first.log_probs[0] == pytest.approx(float(next_token(again, "tuned")[first.ids[0]]), abs=1e-4)


def test_the_conservative_term_keeps_what_was_never_tried_low():
    maze = Maze(2)
    actions = torch.randint(ACTIONS - 1, (300, STEPS), generator=torch.Generator().manual_seed(0))  # never the last
    config = ILQLConfig(gamma=0.9, lam=0.0, expectile=0.9, conservative=0.1)
    found = learn(maze, actions, config, steps=800)
    states = maze.run(actions)[0]
    for t in range(STEPS):
        for s in states[:, t].unique().tolist():
            assert found[t, s, -1] < found[t, s, :-1].max()
    free = learn(maze, actions, replace(config, conservative=0.0), steps=800)
    assert (found[0, 0, -1] < free[0, 0, -1]).all()


def test_what_a_few_tokens_at_a_time_say_of_all_actions_is_what_all_at_once_say(monkeypatch):
    torch.manual_seed(0)
    head, hidden, ids = QHead(6, 5, 11), torch.randn(7, 6, requires_grad=True), torch.randint(11, (7,))
    torch.nn.init.normal_(head.outer.weight)
    torch.nn.init.normal_(head.outer.bias)
    wanted = [hidden, *head.parameters()]
    every = head(hidden)
    plain = [every.gather(-1, ids.unsqueeze(-1)).squeeze(-1), every.logsumexp(-1)]
    monkeypatch.setattr("engine.models.shift.LOGITS", 25)  # two tokens
    found = [head.of(hidden, ids), head.log_sum_exp(hidden)]
    for mine, theirs in zip(found, plain, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
        gradients = [torch.autograd.grad(x.sin().sum(), wanted, retain_graph=True) for x in (mine, theirs)]
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_lambda_returns_are_their_definition(lam):
    """(1 - lam) sum_n lam^(n-1) G_n + lam^(N-1) G_N, of the returns G_n that look n tokens ahead, until the last."""
    gamma, rows, time = 0.9, 3, 6
    generator = torch.Generator().manual_seed(0)
    rewards, v = torch.rand(2, rows, time, generator=generator)
    lengths = torch.tensor([6, 1, 4])
    mask = torch.arange(time) < lengths.unsqueeze(-1)
    following = torch.cat([torch.where(mask, v, 0.0)[:, 1:], torch.zeros(rows, 1)], 1)
    _, found = losses.gae(rewards, v, mask, gamma, lam)
    for row, length in enumerate(lengths.tolist()):
        for t in range(length):
            ahead = []  # G_1, G_2, ... until the answer's end, after which nothing is worth anything
            for n in range(1, length - t + 1):
                paid = sum(gamma**i * float(rewards[row, t + i]) for i in range(n))
                ahead.append(paid + gamma**n * float(following[row, t + n - 1]))
            mixed = (1 - lam) * sum(lam**i * g for i, g in enumerate(ahead[:-1])) + lam ** (len(ahead) - 1) * ahead[-1]
            assert float(found[row, t]) == pytest.approx(mixed, abs=1e-5)
        assert not found[row, length:].any()


def test_what_an_answer_is_worth_reaches_its_first_word(tmp_path):
    """Eight words follow the one that decides; one token back in an update, its worth would not come so far."""
    folder, rng = able_folder(tmp_path / "base"), random.Random(0)
    data = [
        Valued((("user", "w1 w2"),), " ".join([first, *rng.choices(["w5", "w6", "w7"], k=8)]), worth, "ranking", True)
        for first, worth in (("w3", 1.0), ("w4", -1.0)) * 20
    ]

    def lead(lam):
        """By how much more the good first word is said for the values that were learned."""
        roles = policy_on(folder)
        train_ilql(roles, data, ILQLConfig(epochs=20, lam=lam))
        good, bad = (roles.tokenizer.convert_tokens_to_ids(w) for w in ("w3", "w4"))
        shifted = next_token(roles, "policy")
        roles.shifts.pop("policy")
        plain = next_token(roles, "policy")
        return float((shifted[good] - shifted[bad]) - (plain[good] - plain[bad]))

    found, one_step = lead(ILQLConfig().lam), lead(0.0)
    assert found > 2
    assert abs(one_step) < found / 4
