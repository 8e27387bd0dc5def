"""Where things lie on disk: one folder holds the database, the model versions and the runs.

workspace/
  studio.db      SQLite, readable with any SQLite tool
  bases/         one folder a base made here, by pretraining: all its weights
  models/        one folder a model version: adapter, head, studio.json
  runs/          one folder a run: log.txt, checkpoints
  *.lock         empty; held by who opens the database, and by the run that has the device
"""

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_data_path

from engine.errors import UserError


@dataclass(frozen=True)
class Workspace:
    folder: Path

    @property
    def database(self) -> Path:
        return self.folder / "studio.db"

    def model(self, version: int) -> Path:
        return self.folder / "models" / str(version)

    def run(self, run: int) -> Path:
        path = self.folder / "runs" / str(run)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def checkpoints(self, run: int) -> Path:
        return self.run(run) / "checkpoints"


def default_folder() -> Path:
    return Path(os.environ.get("RLHF_STUDIO_WORKSPACE") or user_data_path("rlhf-studio", appauthor=False))


def open_workspace(folder: Path | str | None = None) -> Workspace:
    """The workspace in `folder`, made if it is new. Raises UserError where nothing can be written there."""
    path = Path(folder).expanduser().resolve() if folder else default_folder()
    try:
        (path / "models").mkdir(parents=True, exist_ok=True)
        (path / "runs").mkdir(exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"The workspace {path} cannot be written to ({error.strerror}). Choose another with --workspace."
        ) from error
    return Workspace(path)
