"""All checks that apply to a subject, each as a test of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from pytest_mltiers.checks.failures import CheckFailed, Inapplicable
from pytest_mltiers.randomness import seeded
from pytest_mltiers.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Item:
    """One check of the contract: its name, the subject's fields it needs, and how it is run on a subject and a seed."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[Subject, int], Any]
    catches: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one check said: ``passed``, ``failed`` or ``skipped``, with its message and seconds."""

    name: str
    status: str
    message: str
    seconds: float


def contract() -> tuple[Item, ...]:
    """Every check of the contract, in the order in which they are reported. Imports torch."""
    from pytest_mltiers.checks.suite import ITEMS  # noqa: PLC0415 - torch only when it is used

    return ITEMS


def missing(item: Item, subject: Subject) -> str | None:
    """Why a check does not apply to a subject by its fields alone; None if it may apply."""
    unset = [name for name in item.needs if _unset(getattr(subject, name))]
    return f"the subject has no {' and no '.join(f'`{n}`' for n in unset)}" if unset else None


def _unset(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, tuple) and not value)


def examine(subject: Subject, *, seed: int = 0, only: tuple[str, ...] = ()) -> Iterator[Outcome]:
    """Run the contract (or ``only`` some of it) on a subject outside pytest; yields one outcome per check.

    Each check runs under ``seed``, all random state is restored. An exception from the subject itself is a failure too.
    """
    for item in contract():
        if only and item.name not in only:
            continue
        began = time.perf_counter()
        status, message = "passed", ""
        reason = missing(item, subject)
        if reason:
            status, message = "skipped", reason
        else:
            try:
                with seeded(seed):
                    item.run(subject, seed)
            except Inapplicable as why:
                status, message = "skipped", str(why)
            except CheckFailed as error:
                status, message = "failed", str(error)
            except Exception as error:  # noqa: BLE001 - the subject's own code is what is under test
                status, message = "failed", f"{type(error).__name__}: {error}"
        yield Outcome(name=item.name, status=status, message=message, seconds=time.perf_counter() - began)


class ModelContract:
    """Subclass it, return your :class:`Subject`, and pytest collects one test per check.

    .. code-block:: python

        class TestClassifier(ModelContract):
            def subject(self):
                return Subject(model=lambda: MyModel(), batch=draw_batch, loss=loss, step=train_step, optimizer=adam)

    ``seed``: every check runs under it and leaves no trace in any global random state. A check that does not apply is
    skipped and says why; to leave one out, set it to None (``test_overfits = None``) and say why in a comment.
    """

    seed: ClassVar[int] = 0

    def subject(self) -> Subject:
        """The project under test; called once per test."""
        raise NotImplementedError(f"{type(self).__name__} needs a method subject() that returns a Subject")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for item in contract():
            name = f"test_{item.name}"
            if not hasattr(cls, name):
                setattr(cls, name, _as_test(item))


def _as_test(item: Item) -> Callable[[ModelContract], None]:
    def test(self: ModelContract) -> None:
        __tracebackhide__ = True
        subject = self.subject()
        reason = missing(item, subject)
        if reason:
            pytest.skip(reason)
        try:
            with seeded(self.seed):
                item.run(subject, self.seed)
        except Inapplicable as why:
            pytest.skip(str(why))
        except CheckFailed as error:
            error.add_note(f"(seed {self.seed})") if hasattr(error, "add_note") else None
            raise

    test.__name__ = test.__qualname__ = f"test_{item.name}"
    test.__doc__ = f"Catches: {item.catches}."
    return test
