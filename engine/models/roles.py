"""One base, many roles: LoRA adapters that share the base's weights.

Policy = base + a trainable adapter; reference = base + the adapter training starts from, or the base alone;
reward model = base + its own adapter + a head of `heads` (Hu et al. 2021 for LoRA).
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from engine.errors import UserError, whole
from engine.models.chat import encode_prompt
from engine.models.gated import make_gated
from engine.models.heads import state_scale
from engine.models.load import Base
from engine.models.lora import make_lean
from engine.models.recompute import recompute
from engine.models.shift import AdvantageShift, load_shift

WEIGHTS = "adapter_model.safetensors"  # as PEFT names them
SAMPLE = "Good morning! Could you tell me what the capital of France is, and how one gets there?"  # of plain text
RESTORE = "Put a copy of that folder back, or delete the version and use another."


class Roles:
    """The adapters of one base. A role of None is the untouched base."""

    def __init__(self, base: Base):
        self.base = base
        self.peft: Any = None  # a PeftModel once there is an adapter
        self.shifts: dict[str, AdvantageShift] = {}  # of the roles whose logits are shifted
        self._layers: list[LoraLayer] = []
        self._weights: dict[str, list[nn.Parameter]] = {}  # each role's own
        self._now: str | None = None  # the role that the layers compute
        self._learning: set[str] = set()  # roles whose weights take gradients

    @property
    def tokenizer(self):
        return self.base.tokenizer

    @property
    def width(self) -> int:
        return self.base.model.config.get_text_config().hidden_size

    @property
    def blocks(self) -> int:
        return self.base.model.config.get_text_config().num_hidden_layers

    @cached_property
    def head_scale(self) -> float:
        """What heads on this base take its states times (`heads.state_scale`)."""
        ids = encode_prompt(self.tokenizer, [{"role": "user", "content": SAMPLE}])
        with self.acting(None) as model:
            return state_scale(model, torch.tensor(ids, device=self.base.device))

    def names(self) -> list[str]:
        return list(self.peft.peft_config) if self.peft else []

    def add(self, role: str, rank: int = 16, seed: int = 0) -> None:
        """A new adapter that changes nothing yet (LoRA's B starts at zero)."""
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM",
            exclude_modules=_without_adapters(self.base.model),
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if self.peft is None:
                self.peft = get_peft_model(self.base.model, config, adapter_name=role)
            else:
                self.peft.add_adapter(role, config)
        self._settle()

    def load(self, role: str, folder: Path) -> None:
        """Load an adapter. Raises UserError where it was trained on another base."""
        check_base(folder, self.base)
        with whole(folder, RESTORE):
            # Read before the model is touched: PEFT leaves half an adapter behind where it fails.
            LoraConfig.from_pretrained(str(folder))
            with safe_open(folder / WEIGHTS, "np"):
                pass
            shift = load_shift(folder, self.base.device)
            if self.peft is None:
                self.peft = PeftModel.from_pretrained(self.base.model, folder, adapter_name=role, is_trainable=False)
            else:
                self.peft.load_adapter(folder, role, is_trainable=False)
        self._settle()
        if shift:
            self.shifts[role] = shift

    def remove(self, role: str) -> None:
        self.shifts.pop(role, None)
        if self.peft is None:
            return
        self._learning.discard(role)
        if self.names() == [role]:
            self.base.model = self.peft.unload()
            self.peft, self._layers, self._weights, self._now = None, [], {}, None
        else:
            self.peft.delete_adapter(role)
            self._settle()

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Have `target`, which changes nothing yet, compute what `source` does.

        Raises UserError where its rank is less, or another one on experts, whose ranks lie in one weight.
        """
        pairs = list(zip(self.parameters(target), self.parameters(source), strict=True))
        rank, room = (self.peft.peft_config[role].r for role in (source, target))
        for to, start in pairs:
            if any(n != m and ((m, n) != (rank, room) or n < m) for n, m in zip(to.shape, start.shape, strict=True)):
                raise UserError(f"The version to start from has an adapter of rank {rank}. Set the rank to that.")
        for to, start in pairs:
            to[tuple(map(slice, start.shape))] = start  # of what is beyond the source's rank B is zero
        if source in self.shifts:
            self.shifts[target] = self.shifts[source]

    def _settle(self) -> None:
        """After adapters came or went: what passes need is looked up once, for walking a model takes milliseconds."""
        self.peft.eval()
        make_lean(self.peft)
        make_gated(self.peft)
        self._layers = [m for m in self.peft.modules() if isinstance(m, LoraLayer)]
        named = list(self.peft.named_parameters())
        self._weights = {role: [p for name, p in named if f".{role}." in name] for role in self.names()}
        self._now = None
        for layer in self._layers:
            layer.enable_adapters(False)
        self._let_learn()

    def _let_learn(self) -> None:
        for role, weights in self._weights.items():
            for p in weights:
                p.requires_grad_(role in self._learning)

    def _switch(self, role: str | None) -> None:
        """Have the layers compute `role`. It stays so until the next switch."""
        if role == self._now:
            return
        for layer in self._layers:
            if role is None:
                layer.enable_adapters(False)
            else:
                layer.set_adapter(role, inference_mode=True)
                if self._now is None:
                    layer.enable_adapters(True)
        self._now = role
        # PEFT turns gradients on and off as it switches. A role that learns must keep its own until its loss has gone
        # back, and another role's pass may come in between.
        self._let_learn()

    def recompute(self) -> None:
        """From now on compute the blocks again on the way back, as the role that they were."""
        recompute(self.base.model, self._as_now)

    def _as_now(self) -> Callable[[], AbstractContextManager]:
        role, learning = self._now, set(self._learning)

        @contextmanager
        def back() -> Iterator[None]:
            later = self._now, self._learning
            self._become(role, learning)
            try:
                yield
            finally:
                self._become(*later)

        return back

    def _become(self, role: str | None, learning: set[str]) -> None:
        self._learning = learning
        self._switch(role)
        self._let_learn()

    def parameters(self, role: str) -> list[nn.Parameter]:
        """The adapter's weights, in a fixed order."""
        return self._weights[role]

    @contextmanager
    def acting(self, role: str | None, train: bool = False) -> Iterator[nn.Module]:
        """The causal language model as `role`; with `train`, the role's adapter takes gradients."""
        if role is None:
            self._switch(None)
            yield self.base.model if self.peft is None else self.peft.get_base_model()
            return
        if train != (role in self._learning):
            (self._learning.add if train else self._learning.discard)(role)
            self._let_learn()
        self._switch(role)
        model = self.peft.get_base_model()
        if role not in self.shifts:
            yield model
            return
        shift = self.shifts[role]
        # On the head, so that sampling and training passes both see it.
        handle = model.get_output_embeddings().register_forward_hook(
            lambda _, inputs, logits: logits + shift(inputs[0]).to(logits.dtype)
        )
        try:
            yield model
        finally:
            handle.remove()

    def save(self, role: str, folder: Path, meta: dict) -> None:
        """Write the adapter and what it belongs to. `meta` goes into studio.json beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {n.replace(f".{role}.", "."): p.detach().cpu().contiguous().clone()
                 for n, p in self.peft.named_parameters() if f".{role}." in n}  # fmt: skip
        save_file(state, folder / WEIGHTS)
        self.peft.peft_config[role].save_pretrained(folder)
        if role in self.shifts:
            self.shifts[role].save(folder)
        facts = {"base": str(self.base.path), "base_fingerprint": self.base.fingerprint, **meta}
        (folder / "studio.json").write_text(json.dumps(facts, indent=1))


def _without_adapters(model: Any) -> list[str]:
    """The linear layers that go without: those that no text runs through (a model that sees has them), those that
    choose among experts, of which some give a tuple, and the last product of a Mamba block (which has a skip "D" beside
    its state), whose weights its kernel takes as they are.
    """
    reading = {*model.get_decoder().modules(), model.get_output_embeddings()}
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    found = [name for name, m in linear if m not in reading or "Router" in type(m).__name__]
    mamba = any(name.endswith(".D") for name, _ in model.named_parameters())
    return [*found, "out_proj"] if mamba else found


def check_base(folder: Path, base: Base) -> dict:
    """The facts saved beside an adapter. Raises UserError where it belongs to another base."""
    file = folder / "studio.json"
    if not file.is_file():
        raise UserError(f"{folder} is not a model version of this studio: studio.json is missing.")
    with whole(file, RESTORE):
        facts = json.loads(file.read_text())
        weights, made_on = facts["base_fingerprint"], facts["base"]
    if weights != base.fingerprint:
        raise UserError(
            f"{folder.name} was trained on the base {made_on} ({weights}), "
            f"not on {base.path} ({base.fingerprint}). Choose the base it was made with."
        )
    return facts
