"""Rollouts against transformers' own passes, and against their own definition."""

import json

import pytest
import torch

from engine.errors import UserError
from engine.models.find import POCKET
from engine.sampling.rollout import CHUNK, decode_steps, draw, rollout
from engine.sampling.settings import Sampling, usual_sampling
from engine.training.passes import response_pass
from tests.conftest import tiny_model

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [4, 4]]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_of_sampling_equal_those_of_a_training_pass(family, temperature):
    model = tiny_model(family)
    drawn = rollout(model, PROMPTS, 0, [1], Sampling(temperature, max_new_tokens=20), [1, 2, 3, 4])
    with torch.no_grad():
        log_probs, _ = response_pass(model, None, drawn, torch.arange(4), temperature)
    assert torch.allclose(log_probs, drawn.log_probs, atol=1e-4)
    # And both equal the plain, unpadded forward pass of the whole model, one row at a time.
    for row, prompt in enumerate(PROMPTS):
        tokens = drawn.tokens(row)
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        plain = torch.log_softmax(logits / temperature, -1)[torch.arange(len(tokens)), tokens]
        assert torch.allclose(plain, drawn.log_probs[row, : len(tokens)], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_greedy_equals_transformers_generate(family):
    model = tiny_model(family)
    drawn = rollout(model, PROMPTS, 0, [1], Sampling(0.0, max_new_tokens=12), [0] * 4)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=1
        )[0, len(prompt) :].tolist()
        assert drawn.tokens(row) == expected


def test_an_answer_does_not_depend_on_the_batch_it_is_drawn_in():
    model = tiny_model()
    sampling = Sampling(max_new_tokens=24)
    together = rollout(model, PROMPTS, 0, [1], sampling, [11, 12, 13, 14])
    for row, prompt in enumerate(PROMPTS):
        alone = rollout(model, [prompt], 0, [1], sampling, [11 + row])
        assert alone.tokens(0) == together.tokens(row)
    again = rollout(model, PROMPTS, 0, [1], sampling, [11, 12, 13, 14])
    assert torch.equal(again.response_ids, together.response_ids)
    other = rollout(model, PROMPTS, 0, [1], sampling, [21, 22, 23, 24])
    assert not torch.equal(other.response_ids[:, :3], together.response_ids[:, :3])


def test_answers_stop_at_the_stop_token_and_finished_rows_leave_the_batch():
    model = tiny_model()
    widths = []
    rollout(model, PROMPTS, 0, [1], Sampling(max_new_tokens=2), [0] * 4)  # the first one also looks at the model
    model.model.embed_tokens.register_forward_hook(lambda _, inputs, out: widths.append(len(inputs[0])))
    prompts = PROMPTS * 8
    drawn = rollout(model, prompts, 0, [1, 3, 9, 17], Sampling(max_new_tokens=40), list(range(32)))
    for row in range(32):
        tokens = drawn.tokens(row)
        assert not set(tokens[:-1]) & {1, 3, 9, 17}
        assert bool(drawn.finished[row]) == (tokens[-1] in {1, 3, 9, 17})
    assert widths[:2] == [4, 32]  # each prompt is read once
    assert widths[-1] < 16


def test_drawing_follows_the_distribution():
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    uniform = torch.rand(100_000)
    tokens, log_probs = draw(logits.expand(100_000, 4), uniform, Sampling(temperature=0.5))
    expected = torch.softmax(logits / 0.5, -1)
    assert torch.allclose(torch.bincount(tokens, minlength=4) / 100_000, expected, atol=0.01)
    assert torch.allclose(log_probs, expected.log()[tokens], atol=1e-5)


@pytest.mark.parametrize("vocabulary", [4, CHUNK, 1300])
def test_a_token_is_where_the_cumulative_sum_passes_the_random_number(vocabulary):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, vocabulary, generator=generator)
    logits[:, ::3] = -torch.inf
    uniform = torch.rand(2000, generator=generator)
    uniform[:2] = torch.tensor([0.0, 1 - 2**-24])
    tokens, log_probs = draw(logits, uniform, Sampling())
    p = torch.softmax(logits, -1).double()
    upto = p.cumsum(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1) / p.sum(-1)
    chance = p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    assert bool((chance > 0).all()) and torch.allclose(log_probs.double(), chance.log(), atol=1e-5)
    assert bool((uniform < upto + 1e-6).all() and (uniform > upto - chance - 1e-6).all())


@pytest.mark.parametrize("rows", [2, 100])
def test_numbers_that_are_none_end_no_process(rows):
    tokens, _ = draw(torch.full((rows, 1300), torch.nan), torch.rand(rows), Sampling())
    assert bool((tokens < 1300).all())


@pytest.mark.parametrize(
    ("sampling", "allowed"), [(Sampling(top_k=2), {0, 2}), (Sampling(top_p=0.6), {0}), (Sampling(top_p=0.7), {0, 2})]
)
def test_top_k_and_top_p_leave_the_rest_out(sampling, allowed):
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])  # probabilities .64, .09, .24, .03
    tokens, _ = draw(logits.expand(5000, 4), torch.rand(5000, generator=torch.Generator().manual_seed(0)), sampling)
    assert set(tokens.tolist()) == allowed


def test_streaming_gives_the_tokens_of_a_rollout_step_by_step():
    model = tiny_model()
    sampling = Sampling(max_new_tokens=10)
    rows: dict[int, list[int]] = {0: [], 1: []}
    for step in decode_steps(model, PROMPTS[:2], 0, [1], sampling, [5, 6]):
        for row, token in zip(step.rows, step.tokens, strict=True):
            rows[row].append(token)
    drawn = rollout(model, PROMPTS[:2], 0, [1], sampling, [5, 6])
    assert rows == {0: drawn.tokens(0), 1: drawn.tokens(1)}


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"max_new_tokens": 0}])
def test_senseless_settings_are_refused(bad):
    with pytest.raises(UserError):
        Sampling(**bad)


@pytest.mark.parametrize(
    ("said", "usual"),
    [
        ('{"temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}', (0.6, 0.9, 0)),
        ('{"do_sample": true, "temperature": 1, "top_k": 64, "top_p": 0.95}', (1, 0.95, 64)),
        ('{"eos_token_id": 2, "temperature": null}', (0.7, 1.0, 0)),
        ('{"temperature": -1, "top_p": 0.9}', (0.7, 1.0, 0)),  # no sense
        ('{"temperature": "warm"}', (0.7, 1.0, 0)),
        ("[]", (0.7, 1.0, 0)),
        ("{", (0.7, 1.0, 0)),
    ],
)
def test_answers_are_drawn_as_a_models_makers_say(tmp_path, said, usual):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text(said)
    found = usual_sampling(str(tmp_path))
    assert (found.temperature, found.top_p, found.top_k) == usual
    assert usual_sampling(str(POCKET)).temperature == 1  # made to be drawn from as it is


def test_answers_may_be_as_long_as_suits_the_base(tmp_path):
    def base(name, **config):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return str(tmp_path / name)

    assert usual_sampling(str(POCKET)) == Sampling(max_new_tokens=96)
    assert usual_sampling(base("llama", max_position_embeddings=8192)).max_new_tokens == 256
    assert usual_sampling(base("seeing", text_config={"max_position_embeddings": 300})).max_new_tokens == 150
    assert usual_sampling(base("gpt2", n_positions=128)).max_new_tokens == 64  # half is for the question
    assert usual_sampling(base("silent")).max_new_tokens == 256
    assert usual_sampling(str(POCKET), needed=140).max_new_tokens == 140
    assert usual_sampling(str(POCKET), needed=400).max_new_tokens == 256  # of 512
