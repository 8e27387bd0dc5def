"""What this machine has, what fits on it and what is missing."""

import importlib.metadata
import shutil

import psutil

from engine.errors import UserError
from engine.models.find import POCKET, find_base
from engine.workspace import Workspace

NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "gradio", "sqlite-utils")


def diagnose(workspace: Workspace) -> dict:
    """{"device", "memory", "precision", "fits", "problems", ...}; sizes in GiB."""
    problems: list[str] = []
    versions: dict[str, str] = {}
    for package in NEEDED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"The package {package} is missing. Install the studio again with `make studio`.")
    memory = psutil.virtual_memory()
    found = {"device": "cpu", "precision": "float32", "cores": psutil.cpu_count(logical=False)}
    total, free = memory.total / 2**30, memory.available / 2**30
    if "torch" in versions:
        import torch

        if torch.cuda.is_available():
            found |= {"device": torch.cuda.get_device_name(0), "precision": "bf16"}
            free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
    disk = shutil.disk_usage(workspace.folder).free / 2**30
    if disk < 1:
        problems.append(f"Only {disk:.1f} GiB of disk are free where the workspace lies. Make room there.")
    try:
        find_base("pocket")
    except UserError:
        problems.append(f"The built-in model is missing from {POCKET}. Rebuild it with `make pocket`.")
    return {
        **found,
        "memory": {"total": round(total, 1), "free": round(free, 1)},
        # Bytes a parameter while training: float32 or bf16 weights, or NF4; a third on top for adapters and passes.
        "fits": {name: f"{free / (size * 1.33):.1f}B parameters" for name, size in _bytes_each(found).items()},
        "disk_free": round(disk, 1),
        "workspace": str(workspace.folder),
        "versions": versions,
        "problems": problems,
    }


def _bytes_each(found: dict) -> dict[str, float]:
    return {str(found["precision"]): 4.0 if found["device"] == "cpu" else 2.0, "nf4": 0.6}
