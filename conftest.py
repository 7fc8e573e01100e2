"""For all tests: examples are the same everywhere, and how fast a shared machine draws them is no property of ours."""

from hypothesis import HealthCheck, settings

settings.register_profile("ours", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")
