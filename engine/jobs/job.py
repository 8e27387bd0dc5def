"""A run at work: its row, where it reads and writes, and its base made ready on this machine."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine import estimate
from engine.errors import UserError
from engine.jobs.config import RunConfig, read_config
from engine.machine import give_freed_memory_back
from engine.models.find import find_base
from engine.models.load import choose_device, free_memory, load_base
from engine.models.precision import choose
from engine.models.roles import Roles
from engine.models.shape import shape_of
from engine.sampling.ways import check
from engine.store import models, runs
from engine.store.db import Store
from engine.training.context import Context
from engine.workspace import Workspace


@dataclass
class Job:
    """One run at work: its row, and where it reads and writes."""

    workspace: Workspace
    store: Store
    run: dict
    context: Context

    def __post_init__(self) -> None:
        self.config = read_config(self.run["config"])

    @property
    def parent(self) -> dict:
        return models.get_version(self.store, self.run["parent_version_id"])

    def checkpoints(self, stage: str) -> Path:
        return self.workspace.checkpoints(self.run["id"]) / stage

    def keep(self, result: dict, version_id: int | None = None) -> None:
        """Note what came out so far; `version_id` is the run's model."""
        values: dict = {"result": self.run["result"] | result}
        if version_id is not None:
            values["model_version_id"] = version_id
        self.store.update("runs", self.run["id"], **values)
        self.run = runs.get_run(self.store, self.run["id"])

    def made(self, what: str) -> int | None:
        """The version that came out as `what` before the run was broken off; None where there is none any more."""
        version = self.run["result"].get(what)
        return version if version and not models.once_made(self.store, version)["deleted"] else None

    def used(self, train: list, test: list) -> None:
        """Note exactly which feedback the run learns from, and which it measures with."""
        sides = [sorted({i for example in side for i in example.feedback_ids}) for side in (train, test)]
        runs.record_feedback(self.store, self.run["id"], *sides)


def load_roles(job: Job) -> tuple[Roles, str | None]:
    """(the base with its adapters, the role that training starts from: "start", or None for the base)."""
    job.context.stage("load", 0, 1)
    set_machine(job.config)
    if begun := job.run["result"].get("precision"):
        job.config = replace(job.config, precision=begun)  # a run that goes on is the run that it was
    fit_to_machine(job)
    base = load_base(job.parent["base"], job.config.precision)
    job.keep({"precision": base.precision})
    if base.fingerprint != job.parent["base_fingerprint"]:
        raise UserError(
            f"The base {job.parent['base']} has changed since {job.parent['name']} was made "
            f"({base.fingerprint} now, {job.parent['base_fingerprint']} then). Put the old weights back."
        )
    check(base.model)
    roles = Roles(base)
    if job.config.recompute == "always":
        roles.recompute()
        give_freed_memory_back()
    return roles, attach(roles, job.workspace, job.parent, "start")


def reference_of(job: Job, roles: Roles, start: str | None) -> str | None:
    """The role that a KL penalty keeps the policy near: what the first of these rounds began with, so that round after
    round does not lead further and further away (Bai et al. 2022, "Training a helpful and harmless assistant with
    reinforcement learning from human feedback", section 4.1: the KL is to the initial policy)."""
    first = models.first_of_line(job.store, job.parent)
    return start if first["id"] == job.parent["id"] else attach(roles, job.workspace, first, "reference")


def set_machine(config: RunConfig) -> None:
    """How this process computes, whatever it computes."""
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.tf32 and torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")


def fit_to_machine(job: Job) -> None:
    """Choose by the estimate what the run's settings leave open, and note in the log what was chosen."""
    device, stages = choose_device(), estimate.stages_of(job.run["method"])
    if not stages:
        return  # nothing is known of what it takes: loading chooses by the weights alone
    free = free_memory(device)
    try:
        shape = shape_of(find_base(job.parent["base"]))
    except UserError:
        return  # of a kind that cannot be estimated: whole batches, which are halved should memory run out
    usual = choose(shape, device.type)
    job.config, fits = estimate.fitted(shape, job.config, stages, usual, free, device.type)
    needs = estimate.most(shape, job.config, stages, usual, device.type)
    parts = {stage: size for stage in stages if (size := getattr(job.config, stage).micro_batch)}
    print(
        f"precision {job.config.precision}, about {needs / 1e9:.1f} GB of {free / 1e9:.1f} GB free"
        + "".join(f", {stage} takes {size} at a time" for stage, size in parts.items())
        + (", blocks computed again on the way back" if job.config.recompute == "always" else "")
        + ("" if fits else "; this may not be enough"),
        flush=True,
    )


def attach(roles: Roles, workspace: Workspace, version: dict, role: str) -> str | None:
    """Load a version's adapter as `role`; None where the version is the base itself."""
    if version["kind"] == "base":
        if version["base_fingerprint"] != roles.base.fingerprint:
            raise UserError(f"{version['name']} is another base than {roles.base.path}. Compare versions of one base.")
        return None
    roles.load(role, workspace.model(version["id"]))
    return role
