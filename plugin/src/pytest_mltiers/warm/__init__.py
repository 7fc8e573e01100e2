"""Warm workers: pytest and xdist's workers forked from one process that has imported the heavy modules already.

``start.py`` is run as a script in place of ``python -m pytest``: it imports (``preload``), and forks pytest's
controller and, for each worker that xdist asks for, a child (``forkserver``). xdist starts ``shim.py`` where it would
start a Python (``nodes``); that hands its standard streams to the fork server. Where anything is in the way,
``start.py`` becomes the plain command, and ``shim.py`` a plain worker: same tests, same outcomes, slower.

Everything here but ``nodes`` is imported under a name of its own, `_mltiers_warm`: ``pytest_mltiers`` is a pytest
plugin, and one that is imported before pytest starts is not rewritten.
"""

from __future__ import annotations

WARM_VARIABLE = "MLTIERS_WARM"
"""The environment variable that names the fork server's socket. Without it xdist's workers are plain."""
