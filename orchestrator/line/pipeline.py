"""The straight line: event → config → plan → execute → collect → judge → render → publish.

The first three are `prepare`, the next two `execute`, the rest `conclude`. Each is imported while something else is
waited for: the tests' Python, or the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.hands.results_folder import own_folder
from orchestrator.hands.warm import KeepingWarm
from orchestrator.line.prepare import Hands, Options, out_folder, prepare

if TYPE_CHECKING:
    from orchestrator.hands.publish import Published
    from orchestrator.tools.kept import Kept


def run(options: Options, hands: Hands, kept: Kept | None = None) -> Published:
    """`mltiers run`. Raises UsageError and ConfigError before anything runs; after that there is always a verdict.

    ``kept``: a Python that may turn out to be the tests', started ahead.
    """
    with KeepingWarm(hands.environment, kept) as warm:
        situation, plan = prepare(options, hands, kept=kept, meanwhile=_import_what_follows, early=warm.start)
        from orchestrator.line.execute import execute
        from orchestrator.line.office import open_office, without_github

        office = open_office(situation, hands)
        plan = without_github(plan, options) if office is None and not situation.event.on_github else plan
        with own_folder(out_folder(options, situation)):
            warm.start(plan, situation.root)
            results = execute(plan, situation, options, hands, office, warm.kept, meanwhile=_import_the_end)
            warm.end()
            from orchestrator.line.conclude import conclude

            return conclude(plan, results, situation, options, hands)


def _import_what_follows() -> None:
    import orchestrator.line.execute
    import orchestrator.line.office  # noqa: F401


def _import_the_end() -> None:
    import orchestrator.line.conclude
    import orchestrator.mind.render.terminal  # noqa: F401
