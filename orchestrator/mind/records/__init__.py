"""What the history keeps of one tier's run on one commit, and everything that is read off earlier ones. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from orchestrator.words.verdict import TierVerdict


class CoverageSums(Struct, frozen=True, kw_only=True):
    """The coverage of a run without its lines."""

    covered: int
    statements: int
    branch_covered: int = 0
    branch_total: int = 0


class Record(Struct, frozen=True, kw_only=True):
    """One tier (or shard of it) on one commit, in one run. Durations of its tests are quantised to 10 %, texts cut."""

    sha: str  # the commit it belongs to
    time: float  # Unix seconds at which it ended
    config_id: str
    event: str  # GitHub's name, or "local"
    tier: TierVerdict
    others: tuple[TierVerdict, ...] = ()  # tiers that this run had a reason not to run
    run: str = ""  # identity of the run that wrote it: "<run id>.<attempt>", or a nonce on a laptop
    ref: str | None = None  # branch of a push or schedule ("refs/heads/main")
    pull_request: int | None = None
    fork: bool = False  # a stranger's result: shown, never used for baselines, timings or carrying forward
    trusted: bool = False  # of the default branch (push, schedule, merge group): what baselines are made of
    partial: bool = False  # of a run in which only tiers named on the command line were run
    predicted: float | None = None  # seconds, as the plan said
    machine: Mapping[str, str] = field(default_factory=dict)  # cpu, cores, gpu, driver, cuda, torch, python …
    sources: Mapping[str, str] = field(default_factory=dict)  # content hash (git blob id) of each measured file
    sums: CoverageSums | None = None  # of its coverage
    has_lines: bool = True  # False: the coverage's line sets were not read (or no longer kept), only its sums

    @property
    def name(self) -> str:
        return self.tier.name
