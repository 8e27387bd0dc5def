"""The built-in prompt sets, one prompt a line in assets/prompts."""

from pathlib import Path

from engine.errors import UserError

FOLDER = Path(__file__).parents[1] / "assets" / "prompts"


def load_prompts(name: str) -> list[str]:
    """The prompts of a built-in set or of a text file with one prompt a line; "none" is the empty set."""
    if name == "none":
        return []
    file = FOLDER / f"{name}.txt"
    if not file.is_file():
        file = Path(name).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        sets = ", ".join(sorted(f.stem for f in FOLDER.glob("*.txt")))
        raise UserError(
            f'There is no prompt set "{name}". Choose {sets}, or a text file with one prompt a line.'
        ) from None
    return [line.strip() for line in lines if line.strip()]
