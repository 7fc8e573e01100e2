"""A quick ending loses nothing that pytest's own would have found."""

from __future__ import annotations

CYCLES = """
    import gc

    class Loud:
        def __init__(self, deeper): self.me, self.deeper = self, deeper
        def __del__(self):
            if self.deeper: Loud(self.deeper - 1)
            raise RuntimeError(f"deep {self.deeper}")

    def test_leaves_garbage():
        gc.disable()
        Loud(2)
"""


def test_exceptions_in_finalisers_are_still_seen(run_suite):
    run = run_suite(CYCLES, "-W", "default")
    for depth in (2, 1, 0):
        assert f"RuntimeError: deep {depth}" in run.out
    assert run.code == 0


def test_what_is_left_is_not_collected_again(run_suite):
    files = {
        "conftest.py": """
            import gc
            def pytest_configure(config):
                config.add_cleanup(lambda: print("FROZEN", gc.get_freeze_count() > 1000))
        """,
        "test_it.py": "def test_it(): pass\n",
    }
    assert "FROZEN True" in run_suite(files, "-s").out
