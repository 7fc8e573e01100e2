"""The process table, and how everything in it is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import count

import pytest

from orchestrator.tools import tree
from orchestrator.tools.tree import Process, descendants, kill_until_gone, parse_ps, parse_stat

STAT = "4711 ({name}) S 17 4711 4711 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 0 0 18446744073709551615 1 1 0"


@pytest.mark.parametrize("name", ["pytest", "a b", "(sd-pam)", "x) R 1 1 1 (", ""])
def test_a_name_cannot_forge_its_line(name: str) -> None:
    process = parse_stat(STAT.format(name=name))
    assert (process.pid, process.name, process.state, process.parent) == (4711, name, "S", 17)
    assert (process.group, process.session, process.born) == (4711, 4711, "987654")


@pytest.mark.parametrize(("flags", "ending"), [("4194560", False), ("4194564", True)])
def test_who_is_being_taken_apart(flags: str, ending: bool) -> None:
    assert parse_stat(STAT.format(name="x").replace("4194560", flags)).ending is ending


@pytest.mark.parametrize("text", ["", "4711", "4711 (x)", "4711 (x) S 1 2 3", "x (x) " + "1 " * 30])
def test_what_is_no_stat_line(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_stat(text)


def test_the_table_of_ps() -> None:
    table = parse_ps(
        "    1     0     1 Ss   /sbin/launchd\n"
        "  501     1   501 S    /Applications/Some App.app/Contents/MacOS/Some App\n"
        "  502   501   501 Z    (python3.11)\n"
        "garbage\n\n"
    )
    assert [(p.pid, p.parent, p.group, p.name, p.alive) for p in table.values()] == [
        (1, 0, 1, "launchd", True),
        (501, 1, 501, "Some App", True),
        (502, 501, 501, "(python3.11)", False),
    ]


def test_both_tables_know_us() -> None:
    for table in (tree.process_table(), tree.ps_table()):
        us = table[os.getpid()]
        assert us.parent == os.getppid()
        assert us.group == os.getpgid(0)
        assert us.alive


def world(*rows: tuple[int, int]) -> dict[int, Process]:
    return {pid: Process(pid=pid, parent=parent, group=pid, session=pid) for pid, parent in rows}


@pytest.mark.parametrize(
    ("rows", "roots", "expected"),
    [
        ([(1, 0), (2, 1), (3, 2), (4, 1)], [2], [3]),
        ([(1, 0), (2, 1), (3, 2), (4, 1)], [1], [2, 4, 3]),
        ([(1, 0), (2, 1), (3, 2), (4, 3)], [2, 3], [4]),  # a root is never found, also below another
        ([(1, 0), (2, 1)], [9], []),
        ([(5, 6), (6, 5)], [5], [6]),  # a pid that was used again while we looked
    ],
)
def test_who_is_below(rows: list[tuple[int, int]], roots: list[int], expected: list[int]) -> None:
    assert [process.pid for process in descendants(world(*rows), roots)] == expected


NOWHERE = 10_000_000
"""Pids from here on are beyond what any kernel gives: should a test ever reach the real ``send``, it hits nobody."""


class Bomb:
    """A world with room for so many processes, in which those that are not stopped fill every room at once."""

    def __init__(self, room: int) -> None:
        self.pids = count(NOWHERE)
        self.running = {next(self.pids) for _ in range(room)}
        self.stopped: set[int] = set()
        self.room = room
        self.now = 0.0

    def alive(self) -> list[Process]:
        return [Process(pid=p, parent=0, group=0, session=0) for p in (*self.running, *self.stopped)]

    def gone(self) -> bool:
        return not self.running and not self.stopped

    def send(self, process: Process, number: int) -> bool:
        self.now += 0.00001
        if number == signal.SIGSTOP and process.pid in self.running:
            self.running.remove(process.pid)
            self.stopped.add(process.pid)
        elif number == signal.SIGKILL:
            self.running.discard(process.pid)
            self.stopped.discard(process.pid)
        while self.running and len(self.running) + len(self.stopped) < self.room:
            self.running.add(next(self.pids))
        return True

    def wait(self, seconds: float) -> None:
        self.now += seconds


def test_a_fork_bomb_outgrows_who_only_kills() -> None:
    bomb = Bomb(room=300)
    for _ in range(100):
        for process in bomb.alive():
            bomb.send(process, signal.SIGKILL)
    assert len(bomb.running) == 300  # the naive way: each that is killed makes room for the next


def test_a_fork_bomb_ends() -> None:
    bomb = Bomb(room=300)
    left = kill_until_gone(
        alive=bomb.alive,
        gone=bomb.gone,
        until=1.7,
        send=bomb.send,
        wait=bomb.wait,
        clock=lambda: bomb.now,
    )
    assert left == []
    assert bomb.gone()


def test_seeing_nothing_is_no_proof() -> None:
    looks = iter([[], [], [Process(pid=NOWHERE, parent=1, group=7, session=7)]])
    hit: list[int] = []
    left = kill_until_gone(
        alive=lambda: next(looks, []),
        gone=lambda: signal.SIGKILL in hit,
        until=1.0,
        send=lambda process, number: not hit.append(number),
        wait=lambda _: None,
        clock=lambda: 0.5 if signal.SIGSTOP in hit else 0.0,
    )
    assert left == []
    assert hit == [signal.SIGSTOP, signal.SIGKILL]


def test_what_cannot_be_killed_is_returned_in_time() -> None:
    bomb = Bomb(room=1)
    left = kill_until_gone(
        alive=bomb.alive, gone=bomb.gone, until=1.5, send=lambda *_: False, wait=bomb.wait, clock=lambda: bomb.now
    )
    assert [process.pid for process in left] == [NOWHERE]
    assert bomb.now < 1.6


@pytest.mark.skipif(not tree.LINUX, reason="pidfds")
def test_a_recycled_pid_is_not_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        now = tree.process_table()[child.pid]
        earlier = Process(pid=now.pid, parent=now.parent, group=now.group, session=now.session, born="1")
        assert not tree.send(earlier, signal.SIGKILL)
        assert child.poll() is None
        assert tree.send(now, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert not tree.send(now, signal.SIGKILL)


def test_descriptions() -> None:
    table = tree.process_table()
    assert tree.describe(table[os.getpid()]).endswith(f"(pid {os.getpid()})")
    assert "pytest" in tree.describe(table[os.getpid()])
    gone = Process(pid=2**22 + 1, parent=0, group=0, session=0, name="old")
    assert tree.describe(gone) == f"old (pid {gone.pid})"
    assert tree.named([gone] * 25)[-1] == "and 5 more"
