"""Makes the groups of `--dist loadgroup` where pytest-xdist fails to.

Up to 3.8.0 it appends a test's group to the node id by an attribute that pytest 9.2 no longer reads, and every test is
then a group of its own, without a word (pytest-xdist's issue 1386). What it meant is still in that attribute.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After xdist's own. Nothing is left to do where that worked, nor where a later one has another way."""
    for item in items:
        meant = vars(item).get("_nodeid")  # in a pytest that reads it, it is a slot
        parse = getattr(type(getattr(item, "_id", None)), "parse", None)
        if meant is not None and meant != item.nodeid and parse is not None:
            item._id = parse(meant)  # type: ignore[attr-defined, unused-ignore]
