"""What this machine has, what fits on it and what is missing."""

import importlib.metadata
import shutil

import psutil

from engine import estimate
from engine.errors import UserError
from engine.jobs.config import read_config
from engine.models import precision as precisions
from engine.models.find import POCKET, find_base
from engine.models.shape import KNOWN
from engine.workspace import Workspace

TRIED = "Qwen2.5-0.5B"
NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "gradio", "sqlite-utils")


def diagnose(workspace: Workspace) -> dict:
    """{"device", "memory", "precision", "fits", "problems", ...}; memory in GiB.

    The precision is the one for models like `TRIED`, a block of which is "tried": seconds of a pass by precision. For
    small models, the built-in one among them, it is "precision_small".
    """
    problems: list[str] = []
    versions: dict[str, str] = {}
    for package in NEEDED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"The package {package} is missing. Install the studio again with `make studio`.")
    memory = psutil.virtual_memory()
    found: dict = {"device": "cpu", "cores": psutil.cpu_count(logical=False)}
    kind = "cpu"
    total, free = memory.total / 2**30, memory.available / 2**30
    if "torch" in versions:
        import torch

        if torch.cuda.is_available():
            found["device"], kind = torch.cuda.get_device_name(0), "cuda"
            free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
        found["tried"] = {"model": TRIED, "seconds": precisions.measured(KNOWN[TRIED], kind)}
    disk = shutil.disk_usage(workspace.folder).free / 2**30
    if disk < 1:
        problems.append(f"Only {disk:.1f} GiB of disk are free where the workspace lies. Make room there.")
    try:
        find_base("pocket")
    except UserError:
        problems.append(f"The built-in model is missing from {POCKET}. Rebuild it with `make pocket`.")
    usual = precisions.fastest(KNOWN[TRIED], kind)
    return {
        **found,
        "precision": usual,
        "precision_small": precisions.fastest(None, kind),
        "memory": {"total": round(total, 1), "free": round(free, 1)},
        "fits": _fits(usual, free * 2**30, kind),
        "disk_free": round(disk, 1),
        "workspace": str(workspace.folder),
        "versions": versions,
        "problems": problems,
    }


def _fits(usual: str, free: float, device: str) -> list[dict]:
    """Known models that can be improved here, by the estimate: {"model", "precision", "gigabytes"}.

    The gigabytes are the least it takes, an answer at a time and blocks computed again; with more it is faster.
    """
    fitting = []
    for precision in (usual, "nf4"):
        least = {"recompute": "always", "reward": {"micro_batch": 1}, "ppo": {"micro_batch": 1}}
        config = read_config({"precision": precision, **least})
        for name, shape in KNOWN.items():
            needs = estimate.most(shape, config, estimate.stages_of("improve"), usual, device)
            if needs <= estimate.SPARE * free:
                fitting.append({"model": name, "precision": precision, "gigabytes": round(needs / 1e9, 1)})
    return fitting
