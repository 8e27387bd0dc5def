"""Find a base model on this machine, and name it by its weights. Needs no torch."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.errors import UserError

POCKET = Path(__file__).parents[2] / "assets" / "pocket"


def find_base(name: str) -> Path:
    """The folder of a base: "pocket", a path, or the id of a model in the local Hugging Face cache."""
    if name == "pocket":
        path = POCKET
    elif Path(name).expanduser().is_dir():
        path = Path(name).expanduser().resolve()
    else:
        path = _cached_snapshot(name)
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no config.json. Give the folder of a Hugging Face model.")
    if not list(path.glob("*.safetensors")):
        raise UserError(f"{path} holds no safetensors weights. Convert the model first; nothing else is loaded.")
    return path


def _cached_snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        raise UserError(
            f'There is no model "{name}": no such folder, and not in the local Hugging Face cache. '
            'Give the folder of a model, or "pocket" for the built-in one.'
        ) from None


def fingerprint(path: Path) -> str:
    """A name for the weights in `path`: SHA-256 over every file's header and 64 evenly spread 64 KiB blocks.

    Two files that differ only between the blocks share a name; any training changes every block.
    Raises UserError where a file is shorter than its header says, as after a broken download.
    """
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        try:
            with safe_open(file, "np"):
                pass
        except SafetensorError as error:
            raise UserError(f"The weights in {path} are not whole ({error}). Fetch the model again.") from error
        size = file.stat().st_size
        digest.update(f"{size}".encode())
        with file.open("rb") as handle:
            header = int.from_bytes(handle.read(8), "little")
            digest.update(handle.read(min(header, 1 << 24)))
            for block in range(64):
                handle.seek(size * block // 64)
                digest.update(handle.read(1 << 16))
    return digest.hexdigest()[:16]
