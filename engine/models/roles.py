"""One base, many roles: LoRA adapters that share the base's weights, and scalar heads.

Policy = base + a trainable adapter; reference = base + the adapter training starts from, or the base alone;
reward model = base + its own adapter + a scalar head (Hu et al. 2021 for LoRA).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import UserError
from engine.models.load import Base
from engine.models.shift import AdvantageShift, load_shift


class ScalarHead(nn.Module):
    """hidden [..., width] -> `count` scores [..., count], in float32 whatever the base computes in."""

    def __init__(self, width: int, count: int = 1):
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden.float())


class Roles:
    """The adapters of one base. A role of None is the untouched base."""

    def __init__(self, base: Base):
        self.base = base
        self.peft: Any = None  # a PeftModel once there is an adapter
        self.shifts: dict[str, AdvantageShift] = {}  # of the roles whose logits are shifted

    @property
    def tokenizer(self):
        return self.base.tokenizer

    @property
    def width(self) -> int:
        return self.base.model.config.get_text_config().hidden_size

    def names(self) -> list[str]:
        return list(self.peft.peft_config) if self.peft else []

    def add(self, role: str, rank: int = 16, seed: int = 0) -> None:
        """A new adapter that changes nothing yet (LoRA's B starts at zero)."""
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
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
        if self.peft is None:
            self.peft = PeftModel.from_pretrained(self.base.model, folder, adapter_name=role, is_trainable=False)
        else:
            self.peft.load_adapter(folder, role, is_trainable=False)
        self._settle()
        if shift := load_shift(folder, self.base.device):
            self.shifts[role] = shift

    def remove(self, role: str) -> None:
        self.shifts.pop(role, None)
        if self.peft is None:
            return
        if self.names() == [role]:
            self.base.model = self.peft.unload()
            self.peft = None
        else:
            self.peft.delete_adapter(role)

    @torch.no_grad()
    def copy(self, source: str, target: str) -> None:
        """Give `target` the weights and the shift of `source`; both must have the same rank."""
        pairs = list(zip(self.parameters(target), self.parameters(source), strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            raise UserError("The version to start from has adapters of another rank. Set ppo.rank to the rank it has.")
        for to, start in pairs:
            to.copy_(start)
        if source in self.shifts:
            self.shifts[target] = self.shifts[source]

    def _settle(self) -> None:
        self.peft.eval()
        self.peft.requires_grad_(False)

    def parameters(self, role: str) -> list[nn.Parameter]:
        """The adapter's weights, in a fixed order."""
        return [p for name, p in self.peft.named_parameters() if f".{role}." in name]

    @contextmanager
    def acting(self, role: str | None, train: bool = False) -> Iterator[nn.Module]:
        """The causal language model as `role`; with `train`, the role's adapter takes gradients."""
        if role is None:
            if self.peft is None:
                yield self.base.model
            else:
                with self.peft.disable_adapter():
                    yield self.peft.get_base_model()
                self.peft.requires_grad_(False)
            return
        self.peft.set_adapter(role)
        self.peft.requires_grad_(False)
        if train:
            for p in self.parameters(role):
                p.requires_grad_(True)
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
        save_file(state, folder / "adapter_model.safetensors")
        self.peft.peft_config[role].save_pretrained(folder)
        if role in self.shifts:
            self.shifts[role].save(folder)
        facts = {"base": str(self.base.path), "base_fingerprint": self.base.fingerprint, **meta}
        (folder / "studio.json").write_text(json.dumps(facts, indent=1))


def check_base(folder: Path, base: Base) -> dict:
    """The facts saved beside an adapter. Raises UserError where it belongs to another base."""
    file = folder / "studio.json"
    if not file.is_file():
        raise UserError(f"{folder} is not a model version of this studio: studio.json is missing.")
    facts = json.loads(file.read_text())
    if facts["base_fingerprint"] != base.fingerprint:
        raise UserError(
            f"{folder.name} was trained on the base {facts['base']} ({facts['base_fingerprint']}), "
            f"not on {base.path} ({base.fingerprint}). Choose the base it was made with."
        )
    return facts


def save_head(head: ScalarHead, folder: Path, name: str) -> None:
    save_file({k: v.detach().cpu().contiguous() for k, v in head.state_dict().items()}, folder / f"{name}.safetensors")


def load_head(width: int, folder: Path, name: str, device: torch.device) -> ScalarHead:
    state = load_file(folder / f"{name}.safetensors")
    head = ScalarHead(width, len(state["linear.bias"]))
    head.load_state_dict(state)
    return head.requires_grad_(False).to(device)


def hidden_states(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Last hidden states [rows, time, width] of `ids`, padded on either side as `mask` says.

    Positions count real tokens only, so padding never shifts them.
    """
    positions = (mask.long().cumsum(-1) - 1).clamp_min(0)
    decoder = model.get_decoder()
    return decoder(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False)[0]


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """float32 logits [..., vocabulary] of hidden states, as the model's own forward pass computes them."""
    logits = model.get_output_embeddings()(hidden).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
    return torch.tanh(logits / cap) * cap if cap else logits
