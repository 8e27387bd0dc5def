"""Sampling against transformers' `generate`: ragged rollouts, one stream of chat, four candidates against one.

    python benchmarks/rollout_speed.py [--rounds 5]

All on the pocket model in one process, in turn; medians. Rollouts: 64 prompts, answers end by themselves, tokens are
those up to the end; ours gives log-probabilities as well. Chat: 64 tokens without an end, streamed as text; ours is the
serving worker itself, and both take as many threads as that does.
"""

import io
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import click
import torch
from sides import line
from transformers import TextIteratorStreamer

from engine.models.chat import encode_prompt
from engine.models.load import load_base, stop_ids
from engine.models.roles import Roles
from engine.prompts import load_prompts
from engine.sampling.rollout import pad_left, rollout
from engine.sampling.settings import Sampling
from engine.serving import worker
from engine.serving.worker import Worker

ROWS, LONGEST, STREAMED = 64, 96, 64


def timed(work, threads: int) -> tuple[float, int]:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    tokens = work()
    return time.perf_counter() - started, tokens


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    roles = Roles(load_base("pocket"))
    roles.add("policy", rank=16)
    base, tokenizer = roles.base, roles.tokenizer
    asked = [{"role": "user", "content": load_prompts("everyday")[0]}]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": p}]) for p in load_prompts("everyday")[:ROWS]]
    stops, pad = stop_ids(base), tokenizer.pad_token_id

    def ours() -> int:
        with roles.acting("policy") as model:
            drawn = rollout(model, prompts, pad, stops, Sampling(max_new_tokens=LONGEST), list(range(ROWS)))
        return int(drawn.response_mask.sum())

    @torch.no_grad()
    def theirs() -> int:
        ids, mask = pad_left(prompts, pad, base.device)
        with roles.acting("policy") as model:
            out = model.generate(
                input_ids=ids, attention_mask=mask.long(), do_sample=True, top_k=0, max_new_tokens=LONGEST,
                eos_token_id=stops, pad_token_id=pad,
            )[:, ids.shape[1] :]  # fmt: skip
        ended = torch.isin(out, torch.tensor(stops)).cumsum(-1)
        return int(((ended == 0) | ((ended == 1) & torch.isin(out, torch.tensor(stops)))).sum())

    folder = tempfile.TemporaryDirectory()
    roles.save("policy", Path(folder.name), {"kind": "policy"})
    worker.stop_ids = lambda base: []
    serving, every = Worker(io.StringIO()), torch.get_num_threads()

    def stream(count: int) -> int:
        serving.generate({
            "id": 1, "base": str(base.path), "adapter": folder.name, "messages": asked, "seeds": list(range(count)),
            "sampling": {"max_new_tokens": STREAMED},
        })  # fmt: skip
        return count * STREAMED

    def their_stream() -> int:
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        ids = torch.tensor(prompts[:1])
        with roles.acting("policy") as model:
            work = threading.Thread(
                target=model.generate,
                kwargs={
                    "input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": True, "top_k": 0,
                    "max_new_tokens": STREAMED, "min_new_tokens": STREAMED, "streamer": streamer, "pad_token_id": pad,
                },
            )  # fmt: skip
            work.start()
            for _ in streamer:
                pass
            work.join()
        return STREAMED

    works = {"ours": ours, "theirs": theirs, "one": lambda: stream(1), "four": lambda: stream(4), "their": their_stream}
    for work in works.values():
        work()  # once to warm up; the worker decides how many threads chat takes
    few = torch.get_num_threads()
    seen: dict[str, list[tuple[float, int]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seen[name].append(timed(work, every if name in ("ours", "theirs") else few))
    speed = {name: median(tokens / seconds for seconds, tokens in runs) for name, runs in seen.items()}
    seconds = {name: median(s for s, _ in runs) for name, runs in seen.items()}
    ratio = speed["ours"] / speed["theirs"]
    line(
        "rollouts, ragged, tokens/s, against generate", speed["ours"], speed["theirs"], ratio, "at least 2x", ratio >= 2
    )
    ratio = speed["one"] / speed["their"]
    line("chat, one stream, tokens/s, against generate", speed["one"], speed["their"], ratio, "at least 1x", ratio >= 1)
    ratio = seconds["four"] / seconds["one"]
    line("chat, 4 candidates against 1, seconds", seconds["four"], seconds["one"], ratio, "at most 1.4x", ratio <= 1.4)


if __name__ == "__main__":
    main()
