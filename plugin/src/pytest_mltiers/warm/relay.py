"""A process goes on in a child of its own, and stays behind as it was before an import that nobody could undo.

What has been imported so far is thus not imported again where the next module turns out to be unfit: the child says so
and ends, and another one goes on from the same place without that module.
"""

from __future__ import annotations

import os
import sys
import time

from _mltiers_warm.child import die_with_parent

ANOTHER_TRY = 75  # the exit code of a process that was found of no use, where another one may be
WORTH = 0.3  # seconds of imports: a copy of a process that has imported torch takes 0.02


class Relay:
    """Where this process could be left behind. Not to be used in one whose pid somebody relies on."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.used = False

    def pays(self, module: str) -> bool:
        """Whether so much has been imported since the last time that ``module``, not imported yet, is worth one."""
        return time.monotonic() - self.began > WORTH and module.partition(".")[0] not in sys.modules

    def stay_behind(self) -> None:
        """Returns in a child; in another one each time that a child has ended for the sake of another try. The process
        itself waits, and ends as the last of them does; they end with it.
        """
        here = os.getpid()
        while True:
            pid = os.fork()
            if pid == 0:
                die_with_parent(here)
                self.began, self.used = time.monotonic(), True
                return
            _, status = os.waitpid(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            if code != ANOTHER_TRY:
                os._exit(code if code >= 0 else 128 - code)
