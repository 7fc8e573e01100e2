"""For every test of this repository."""

from __future__ import annotations

import signal

# A shell starts what it puts into the background with SIGINT ignored, nohup with SIGHUP, and whoever ignores a signal
# passes that on to all its children: then no test could stop by it the process that it has started for that purpose.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
