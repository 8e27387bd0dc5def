"""Conversations to token ids, for templates as they are met."""

import pytest
from tokenizers.processors import TemplateProcessing

from engine.models.chat import encode_prompt, encode_response, end_of_turn, next_turn
from tests.conftest import tiny_tokenizer

ASKED = [{"role": "user", "content": "w1 w2"}]
TURNS = "{% for m in messages %}"
ASKS = "{% if add_generation_prompt %}<start>{% endif %}"
GEMMA = TURNS + "<start>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}" + ASKS
LLAMA_2 = TURNS + "{% set asks = m.role == 'user' %}{{ '<start>' if asks else ' ' }}{{ m.content }}"
LLAMA_2 += "{{ '' if asks else ' </s>' }}{% endfor %}"
GLM = TURNS + "{{ '<start>' if m.role == 'user' else '<end>' }}{{ m.content }}{% endfor %}"
WORDS_ALONE = TURNS + "{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture
def tokenizer():
    found = tiny_tokenizer()
    found.add_special_tokens({"additional_special_tokens": ["<start>", "<end>"]})
    return found


def read(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


@pytest.mark.parametrize(
    ("template", "end", "opens"),
    [
        (GEMMA, "<end>", ["<start>", "<unk>"]),  # its tokenizer's end of text is another token
        (LLAMA_2, "</s>", ["<start>"]),  # with a space before it
        (GLM, "<start>", []),  # the next turn's opening is what ends an answer
        (WORDS_ALONE, "</s>", ["<unk>", ":"]),
        (None, "</s>", ["<unk>", ":"]),
        ("{{ raise_exception('Never.') }}", "</s>", []),
    ],
    ids=["gemma", "llama 2", "glm", "words alone", "none", "refuses"],
)
def test_an_answer_ends_as_its_template_has_it(tokenizer, template, end, opens):
    tokenizer.chat_template = template
    assert read(tokenizer, [end_of_turn(tokenizer)]) == [end]
    assert read(tokenizer, next_turn(tokenizer)) == opens
    assert read(tokenizer, encode_response(tokenizer, "w3")) == ["w3", end]
    assert read(tokenizer, encode_response(tokenizer, "w3", finished=False)) == ["w3"]


def test_a_text_begins_as_the_tokenizer_has_it_where_no_template_says(tokenizer):
    without = encode_prompt(tokenizer, ASKED)
    tokenizer.add_special_tokens({"bos_token": "<start>"})
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<start> $A </s>", special_tokens=[("<start>", start), ("</s>", end)]
    )
    assert encode_prompt(tokenizer, ASKED) == [start, *without]
    tokenizer.chat_template = GEMMA
    assert encode_prompt(tokenizer, ASKED).count(start) == 2  # of the person's turn and of the answer


def test_a_model_that_can_think_aloud_first_does_not(tokenizer):
    tokenizer.chat_template = "w1{% if enable_thinking is defined and not enable_thinking %} w9{% endif %}"
    assert read(tokenizer, encode_prompt(tokenizer, ASKED)) == ["w1", "w9"]
