"""The process environment, read once into a typed value. Nothing else reads ``os.environ``."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from orchestrator.words.secrets import without_secrets


class Environment(Struct, frozen=True, kw_only=True):
    """GitHub's variables and the few of ours; every field is None where the variable is unset or empty."""

    event_name: str | None = None
    event_path: str | None = None
    repository: str | None = None
    sha: str | None = None
    ref: str | None = None
    actor: str | None = None
    api_url: str | None = None
    server_url: str = "https://github.com"
    run_id: str | None = None
    run_attempt: str | None = None
    token: str | None = None
    output_file: str | None = None
    summary_file: str | None = None
    in_actions: bool = False
    self_hosted: bool = False  # the job's runner is not one of GitHub's
    color: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Without the token and the variables: what is printed by mistake ends in a log."""
        return f"Environment(event_name={self.event_name!r}, repository={self.repository!r}, sha={self.sha!r})"

    @classmethod
    def read(cls, variables: Mapping[str, str], *, terminal: bool = False) -> Environment:
        """``variables``: normally ``os.environ``. ``terminal``: whether the talk goes to a terminal."""

        def get(name: str) -> str | None:
            return variables.get(name) or None

        return cls(
            event_name=get("GITHUB_EVENT_NAME"),
            event_path=get("GITHUB_EVENT_PATH"),
            repository=get("GITHUB_REPOSITORY"),
            sha=get("GITHUB_SHA"),
            ref=get("GITHUB_REF"),
            actor=get("GITHUB_ACTOR"),
            api_url=get("GITHUB_API_URL"),
            server_url=get("GITHUB_SERVER_URL") or "https://github.com",
            run_id=get("GITHUB_RUN_ID"),
            run_attempt=get("GITHUB_RUN_ATTEMPT"),
            token=get("GITHUB_TOKEN"),
            output_file=get("GITHUB_OUTPUT"),
            summary_file=get("GITHUB_STEP_SUMMARY"),
            in_actions=get("GITHUB_ACTIONS") == "true",
            self_hosted=get("RUNNER_ENVIRONMENT") == "self-hosted",
            color="NO_COLOR" not in variables and (terminal or get("FORCE_COLOR") is not None),
            variables=dict(variables),
        )

    def for_tests(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The environment of a process that runs tests: ours without secrets, then ``extra``."""
        return {**without_secrets(self.variables), **extra}
