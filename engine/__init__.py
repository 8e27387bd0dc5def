"""RLHF Studio's engine: all that can be done without a browser. This is the only door the studio uses.

Names load on first use, so that importing the engine does not import torch.
"""

import os
from importlib import import_module
from typing import Any

# bitsandbytes decorates functions for torch's compiler, whose loading is a fifth of what a process takes to begin.
# Nothing here is compiled.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# A CPU's products in bf16 go through oneDNN, which keeps what it made for each of the last 1,024 shapes, and so does
# torch; every batch has a length of its own. PPO on a 512 x 6 Llama grew from 0.3 to 1.1 GB in twelve updates. Sixteen
# are enough for the steps of an answer, whose shapes do come back.
os.environ.setdefault("LRU_CACHE_CAPACITY", "16")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

# Threads of one process wait for each other by spinning, for some 4 ms at first, which is as long as the system lets
# another have the core: beside a run's, an answer took up to thirty times as long. For 0.04 ms both take their turns.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_MODULES = {
    "conversations": "engine.store.conversations",
    "feedback_log": "engine.store.feedback",
    "versions": "engine.store.models",
    "runs": "engine.store.runs",
    "comparisons": "engine.store.comparisons",
    "launcher": "engine.jobs.launch",
    "presets": "engine.jobs.presets",
    "labelling": "engine.store.labelling",
    "shelf": "engine.shelf",
    "shapes": "engine.models.shape",
    "precisions": "engine.models.precision",
    "estimates": "engine.estimate",
    "timing": "engine.timing",
    "quality": "engine.store.quality",
    "browsing": "engine.store.browse",
}
_NAMES = {
    "UserError": "engine.errors",
    "disk_is_full": "engine.errors",
    "Store": "engine.store.db",
    "open_workspace": "engine.workspace",
    "find_base": "engine.models.find",
    "fingerprint": "engine.models.find",
    "Sampling": "engine.sampling.settings",
    "DRAWN": "engine.sampling.settings",
    "usual_sampling": "engine.sampling.settings",
    "load_prompts": "engine.prompts",
    "parse_settings": "engine.jobs.config",
    "read_config": "engine.jobs.config",
    "described_settings": "engine.jobs.config",
    "STAGES": "engine.jobs.config",
    "confidence_sequence": "engine.evaluation.winrate",
    "votes_to_decide": "engine.evaluation.winrate",
    "ServingClient": "engine.serving.client",
    "compare_versions": "engine.jobs.recipes",
    "diagnose": "engine.doctor",
    "memory_in_use": "engine.machine",
    "import_file": "engine.feedback.importing",
    "read_file": "engine.feedback.importing",
    "IMPORT_FORMATS": "engine.feedback.importing",
    "export_file": "engine.feedback.exporting",
    "EXPORT_FORMATS": "engine.feedback.exporting",
    "run_demo": "engine.pocket.demo",
}

__all__ = [*_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")
