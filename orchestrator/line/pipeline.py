"""The straight line: event → config → plan → execute → collect → judge → render → publish.

The first three are `prepare`, the next two `execute`, the rest `conclude`. The last two are imported while the tests'
Python is starting up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.hands.results_folder import own_folder
from orchestrator.hands.warm import KeepingWarm
from orchestrator.line.prepare import Hands, Options, out_folder, prepare

if TYPE_CHECKING:
    from orchestrator.hands.publish import Published


def run(options: Options, hands: Hands) -> Published:
    """`mltiers run`. Raises UsageError and ConfigError before anything runs; after that there is always a verdict."""
    with KeepingWarm(hands.environment) as warm:
        situation, plan = prepare(options, hands, meanwhile=_import_the_rest, early=warm.start)
        from orchestrator.line.conclude import conclude
        from orchestrator.line.execute import execute
        from orchestrator.line.office import open_office, without_github

        office = open_office(situation, hands)
        plan = without_github(plan, options) if office is None and not situation.event.on_github else plan
        with own_folder(out_folder(options, situation)):
            warm.start(plan, situation.root)
            results = execute(plan, situation, options, hands, office, warm.kept)
            warm.end()
            return conclude(plan, results, situation, options, hands)


def _import_the_rest() -> None:
    import orchestrator.line.conclude
    import orchestrator.line.execute
    import orchestrator.line.office  # noqa: F401
