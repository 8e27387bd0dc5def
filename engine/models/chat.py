"""Conversations to token ids and back."""

from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from engine.errors import UserError

Message = dict[str, str]  # {"role": "user" | "assistant" | "system", "content": text}

# For a base without a template of its own: plain, and no token that a vocabulary may lack.
DEFAULT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}User: {{ m.content }}\n"
    "{% elif m.role == 'system' %}{{ m.content }}\n\n"
    "{% else %}Assistant: {{ m.content }}{{ eos_token }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: list[Message], room: int = 0) -> list[int]:
    """Token ids of a conversation that ends with a user's turn, up to where the answer begins.

    Raises UserError where fewer than `room` tokens of the model's context are left for the answer; 0 asks for none.
    """
    ids = _encode(tokenizer, messages)
    if room and len(ids) + room > tokenizer.model_max_length:
        raise UserError(
            f"The conversation is {len(ids)} tokens long, its answer may have {room}, and the model reads "
            f"{tokenizer.model_max_length} in all. Start a new conversation, shorten the prompt or allow fewer tokens."
        )
    return ids


def fits(tokenizer: PreTrainedTokenizerBase, messages: list[Message], room: int) -> bool:
    """Whether a conversation leaves `room` tokens of the model's context for the answer."""
    return len(_encode(tokenizer, messages)) + room <= tokenizer.model_max_length


def _encode(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> list[int]:
    """A template says itself what a text begins with; without one it is what the tokenizer puts there."""
    plain = tokenizer.chat_template is None
    ids = tokenizer(_render(tokenizer, messages), add_special_tokens=plain)["input_ids"]
    return ids[:-1] if plain and ids[-1] == tokenizer.eos_token_id else ids


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str:
    rendered = tokenizer.apply_chat_template(
        messages,
        chat_template=tokenizer.chat_template or DEFAULT_TEMPLATE,
        add_generation_prompt=True,
        tokenize=False,
        enable_thinking=False,  # where a template knows of it: what people judge is the answer
    )
    return str(rendered)


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str, finished: bool = True) -> list[int]:
    """Token ids of an answer, with the token that ends it where it ended by itself."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, end_of_turn(tokenizer)] if finished else ids


def encode_answered(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str, finished: bool, limit: int
) -> tuple[list[int], list[int]]:
    """Token ids (of the conversation, of the answer to it), `limit` at most in all.

    What is too much is left out at the conversation's start; an answer that leaves it no room loses its own end.
    """
    prompt, answer = encode_prompt(tokenizer, messages), encode_response(tokenizer, text, finished)
    answer = answer[: limit - 1]
    return prompt[-(limit - len(answer)) :], answer


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer: the template's own where it has one, as Gemma's and Phi's, else end of text."""
    return _after_an_answer(tokenizer)[0]


def next_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that stand between the end of an answer and the words of the person's next turn.

    Empty where the template does not take an answer as it is.
    """
    return _after_an_answer(tokenizer)[1]


_found: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[object, tuple[int, list[int]]]] = WeakKeyDictionary()


def _after_an_answer(tokenizer: PreTrainedTokenizerBase) -> tuple[int, list[int]]:
    """(the token that ends it, what follows up to the words of the next turn), rendered once for each template."""
    template, found = _found.get(tokenizer, (None, None))
    if found is None or template != tokenizer.chat_template:
        found = _read_off(tokenizer)
        _found[tokenizer] = tokenizer.chat_template, found
    return found


def _read_off(tokenizer: PreTrainedTokenizerBase) -> tuple[int, list[int]]:
    turns = [{"role": r, "content": c} for r, c in (("user", "A"), ("assistant", "BETWEEN"), ("user", "THESE"))]
    end = int(tokenizer.eos_token_id)
    try:
        text = _render(tokenizer, turns)
    except Exception:  # a template may refuse anything, in any way; the answer's own last token serves as well
        return end, []
    between = text.partition("BETWEEN")[2].partition("THESE")[0]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} - {tokenizer.unk_token_id}
    for opening in (between, between.lstrip()):  # some templates put a space before the end
        ids = tokenizer(opening, add_special_tokens=False)["input_ids"]
        if ids and ids[0] in special | {end}:
            return ids[0], ids[1:]
    return end, tokenizer(between, add_special_tokens=False)["input_ids"]


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
