"""A GitHub of our own for tests: stateful, on 127.0.0.1, held to GitHub's own description of its API.

>>> with LoopbackGitHub() as github:
...     repository = github.add_repository("octo/widgets")
...     pull = repository.add_pull_request(head="feature")
...     token = github.add_token()                      # GITHUB_TOKEN with every write permission
...     # run something with GITHUB_API_URL=github.api_url, GITHUB_TOKEN=token
...     [comment.body for comment in pull.comments]
[]

Every request it gets and every answer it gives is checked against ``openapi.json``; what breaks it is answered 500,
recorded in ``github.violations`` and raised when the block ends.
"""

from tests.loopback_github.api import Hooks
from tests.loopback_github.faults import Fault, dropped, hanging, meeting, secondary_rate_limit, server_error, truncated
from tests.loopback_github.server import Exchange, LoopbackGitHub
from tests.loopback_github.state import ACTIONS_BOT, READ, WRITE, FileChange, Pull, Repository, Run

__all__ = [
    "ACTIONS_BOT",
    "READ",
    "WRITE",
    "Exchange",
    "Fault",
    "FileChange",
    "Hooks",
    "LoopbackGitHub",
    "Pull",
    "Repository",
    "Run",
    "dropped",
    "hanging",
    "meeting",
    "secondary_rate_limit",
    "server_error",
    "truncated",
]
