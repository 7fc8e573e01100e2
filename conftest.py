"""For all tests: what they are to find whoever started them, and examples that are the same everywhere."""

import contextlib
import signal

from hypothesis import HealthCheck, settings

# Started in the background of a shell, we and our children ignore these, and some of them are to be stopped by one.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, handler)

# How fast a shared machine draws examples is no property of ours.
settings.register_profile("ours", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
