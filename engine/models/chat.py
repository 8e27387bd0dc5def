"""Conversations to token ids and back."""

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
    return tokenizer(_render(tokenizer, messages), add_special_tokens=False)["input_ids"]


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str:
    template = tokenizer.chat_template or DEFAULT_TEMPLATE
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    return str(rendered)


def encode_response(tokenizer: PreTrainedTokenizerBase, text: str, finished: bool = True) -> list[int]:
    """Token ids of an answer, with the end token where it ended by itself."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if finished else ids


def encode_answered(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], text: str, finished: bool, limit: int
) -> tuple[list[int], list[int]]:
    """Token ids (of the conversation, of the answer to it), `limit` at most in all.

    What is too much is left out at the conversation's start; an answer that leaves it no room loses its own end.
    """
    prompt, answer = encode_prompt(tokenizer, messages), encode_response(tokenizer, text, finished)
    answer = answer[: limit - 1]
    return prompt[-(limit - len(answer)) :], answer


def next_turn(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that stand between an answer's end token and the words of the person's next turn.

    Empty where the template does not take an answer as it is.
    """
    turns = [{"role": r, "content": c} for r, c in (("user", "A"), ("assistant", "BETWEEN"), ("user", "THESE"))]
    try:
        text = _render(tokenizer, turns)
    except Exception:  # a template may refuse anything, in any way; the answer's own last token serves as well
        return []
    opening = text.partition("BETWEEN")[2].partition("THESE")[0].removeprefix(str(tokenizer.eos_token))
    return tokenizer(opening, add_special_tokens=False)["input_ids"]


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
