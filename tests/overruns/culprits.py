"""Ways in which a test run hangs, overruns or will not die: one pytest suite each, as text.

Every suite begins with four tests that pass. ``note()`` writes the pid of the calling process to a file, so that the
table's test can look for exactly these processes afterwards. None needs a compiler: libc is reached through ctypes,
with ``PyDLL`` (which keeps the GIL) or ``CDLL`` (which releases it). All end by themselves within a minute or two,
should we fail to end them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PRELUDE = '''
import ctypes, itertools, os, signal, socket, subprocess, sys, threading, time
import pytest

LONG = 90


def note():
    """Tell the outside that this process exists."""
    with open(os.environ["OVERRUN_PIDS"], "a") as file:
        file.write(f"{os.getpid()}\\n")


def others_done():
    """Wait till the four fine tests are over: with xdist another worker has some of them."""
    while open(os.environ["OVERRUN_EVENTS"]).read().count('"phase":"teardown"') < 4:
        time.sleep(0.01)


def parent():
    """The parent of this process: the supervisor, or xdist's controller; never whoever runs this table."""
    pid = os.getppid()
    assert pid not in (1, int(os.environ["OVERRUN_RUNNER"]))
    return pid


def stubborn():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def daemon(*, quiet=True):
    """A process in a session of its own, an orphan that ignores every polite signal. Returns when it runs."""
    ready, go = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            stubborn()
            note()
            os.write(go, b"x")
            if quiet:
                os.closerange(0, 256)
            time.sleep(LONG)
        os._exit(0)
    os.read(ready, 1)
'''

FINE = "".join(f"\ndef test_fine_{number}():\n    pass\n" for number in range(4))


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """One way to overrun.

    ``test`` is the body of ``test_culprit`` (or, with ``module`` or ``conftest``, code of the module or conftest).
    ``frame`` is the function whose name must be in the stacks; empty where no interpreter is left to answer.
    ``ending`` and ``ending_xdist`` are the expected ``model.Ending`` values.
    """

    name: str
    test: str = "pass"
    module: str = ""
    conftest: str = ""
    frame: str = "test_culprit"
    running: bool = True  # whether the stream shows test_culprit as started and not ended
    finished: int = 4  # of the fine tests
    args: tuple[str, ...] = ()
    ending: str = "deadline"
    ending_xdist: str = "deadline"
    leftovers: bool = False
    slow_start: float = 0.0  # seconds that its imports take
    needs: tuple[str, ...] = field(default=())  # modules

    def files(self) -> dict[str, str]:
        """The suite: file name → text."""
        body = "\n".join(f"    {line}" for line in self.test.strip("\n").splitlines())
        test = f"def test_culprit(request):\n    others_done()\n    note()\n{body}\n"
        return {
            "overrun.py": PRELUDE,
            "conftest.py": f"from overrun import *\n{self.conftest}\n",
            "test_suite.py": f"from overrun import *\n{FINE}\n{self.module}\n\n{test}",
            "pytest.ini": "[pytest]\naddopts = -p no:cacheprovider\n",
        }


CULPRITS = (
    # --- the test itself: in Python, in C, with and without the GIL
    Culprit(name="busy-loop", test="while True:\n    pass"),
    Culprit(name="sleep", test="time.sleep(LONG)"),
    Culprit(name="c-holding-the-gil", test="ctypes.PyDLL(None).sleep(LONG)\nctypes.PyDLL(None).sleep(LONG)"),
    Culprit(name="c-busy-holding-the-gil", test="sum(itertools.repeat(0, 20_000_000_000))"),
    Culprit(name="c-without-the-gil", test="while True:\n    ctypes.CDLL(None).sleep(LONG)"),
    Culprit(
        name="pthread-join",
        test="""
libc = ctypes.PyDLL(None)
thread = ctypes.c_ulong()
start = ctypes.cast(libc.sleep, ctypes.c_void_p)
libc.pthread_create(ctypes.byref(thread), None, start, ctypes.c_void_p(LONG))
libc.pthread_join(thread, None)
""",
    ),
    Culprit(name="thread-join", test="t = threading.Thread(target=time.sleep, args=(LONG,))\nt.start()\nt.join()"),
    Culprit(name="lock-taken-twice", test="lock = threading.Lock()\nlock.acquire()\nlock.acquire()"),
    Culprit(name="socket-accept", test="s = socket.create_server(('127.0.0.1', 0))\ns.accept()"),
    Culprit(name="asyncio", test="import asyncio\nasyncio.run(asyncio.sleep(LONG))"),
    Culprit(name="read-of-a-pipe", test="r, w = os.pipe()\nos.read(r, 1)"),
    # --- signals
    Culprit(name="ignores-int-and-term", test="stubborn()\ntime.sleep(LONG)"),
    Culprit(
        name="swallows-keyboard-interrupt",
        test="while True:\n    try:\n        time.sleep(LONG)\n    except KeyboardInterrupt:\n        pass",
    ),
    Culprit(
        name="hangs-in-its-clean-up",
        test="try:\n    time.sleep(LONG)\nfinally:\n    stubborn()\n    time.sleep(LONG)",
    ),
    Culprit(
        name="blocks-all-signals",
        test="signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\ntime.sleep(LONG)",
        frame="",
    ),
    Culprit(name="took-our-signal", test="signal.signal(signal.SIGURG, signal.SIG_IGN)\ntime.sleep(LONG)", frame=""),
    Culprit(name="closed-all-files", test="os.closerange(3, 256)\nstubborn()\ntime.sleep(LONG)", frame=""),
    Culprit(name="stops-itself", test="os.kill(os.getpid(), signal.SIGSTOP)"),
    Culprit(
        name="stops-its-group",
        test="os.killpg(0, signal.SIGSTOP)",
    ),
    Culprit(
        name="stops-its-parent",
        test="while True:\n    os.kill(parent(), signal.SIGSTOP)\n    time.sleep(0.05)",
    ),
    Culprit(
        name="kills-its-parent",
        test="os.kill(parent(), signal.SIGKILL)\ntime.sleep(LONG)",
        frame="",
        ending="unknown",  # its parent is our supervisor; with xdist it is the controller
        ending_xdist="signaled",
        leftovers=True,
    ),
    Culprit(
        name="kills-itself",
        test="os.kill(os.getpid(), signal.SIGKILL)",
        frame="",
        ending="signaled",
        ending_xdist="exited",  # the worker is replaced
        slow_start=5.0,
    ),
    Culprit(
        name="segfault", test="ctypes.string_at(0)", frame="", ending="signaled", ending_xdist="exited", slow_start=5.0
    ),
    # --- children
    Culprit(
        name="waits-for-a-stubborn-child",
        test="""
if os.fork() == 0:
    stubborn()
    note()
    time.sleep(LONG)
    os._exit(0)
os.wait()
""",
    ),
    Culprit(
        name="grandchildren",
        test="""
code = "import os, signal, subprocess, sys, time; signal.signal(2, 1); signal.signal(15, 1);" \\
    "sys.path.insert(0, os.getcwd()); from overrun import note; note(); depth = int(sys.argv[1]);" \\
    "depth and subprocess.Popen([sys.executable, '-c', sys.argv[2], str(depth - 1), sys.argv[2]]); time.sleep(90)"
subprocess.run([sys.executable, "-c", code, "3", code])
""",
    ),
    Culprit(name="daemon", test="daemon()\ntime.sleep(LONG)"),
    Culprit(
        name="daemon-of-a-test-that-ends",
        test="daemon()",
        frame="",
        running=False,
        ending="exited",
        ending_xdist="exited",
        leftovers=True,
    ),
    Culprit(
        name="daemon-keeps-the-output",
        test="daemon(quiet=False)",
        frame="",
        running=False,
        args=("-s",),
        ending="exited",
        ending_xdist="deadline",  # it keeps execnet's pipe as well, and xdist waits for the end of that
        leftovers=True,
    ),
    Culprit(
        name="fork-bomb",
        test="""
stubborn()
for generation in range(7):  # 128 of them
    os.fork()
note()
time.sleep(LONG)
os._exit(0)
""",
    ),
    Culprit(
        name="changes-its-pid",
        test="""
if os.fork() == 0:
    stubborn()
    os.setsid()
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        if os.fork():
            os._exit(0)
        time.sleep(0.002)
    os._exit(0)
time.sleep(LONG)
""",
    ),
    Culprit(
        name="breeds",
        test="""
def breed():
    stubborn()
    end = time.monotonic() + 30
    while time.monotonic() < end:  # a child per turn, each lives for a while: some hundred at a time
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
        time.sleep(0.01)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
    os._exit(0)

for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        breed()
time.sleep(LONG)
""",
    ),
    Culprit(
        name="nested-pytest",
        test="""
os.mkdir("nested")
with open("nested/test_inner.py", "w") as file:
    file.write("import os, sys\\nsys.path.insert(0, os.path.dirname(os.getcwd()))\\n"
               "from overrun import *\\ndef test_inner():\\n    note()\\n    stubborn()\\n    time.sleep(90)\\n")
subprocess.run([sys.executable, "-m", "pytest", "test_inner.py"], cwd="nested")
""",
    ),
    Culprit(
        name="pool-with-a-dead-worker",
        test="""
import multiprocessing
with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.map(os._exit, [1])
""",
    ),
    Culprit(
        name="dataloader",
        module="""
def endless(index):
    note()
    while True:
        time.sleep(LONG)
""",
        test="""
import torch.utils.data

class Endless(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return endless(index)

list(torch.utils.data.DataLoader(Endless(), num_workers=2))
""",
        slow_start=12.0,
        needs=("torch",),
    ),
    Culprit(
        name="dataloader-deadlock",
        test="""
import torch.utils.data

lock = threading.Lock()

class Locked(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        note()
        with lock:  # forked while the parent held it
            return index

with lock:
    list(torch.utils.data.DataLoader(Locked(), num_workers=2))
""",
        slow_start=12.0,
        needs=("torch",),
    ),
    # --- output
    Culprit(name="output-flood", test="while True:\n    os.write(2, b'x' * 4095 + b'\\n')", args=("-s",)),
    Culprit(name="output-flood-without-lines", test="while True:\n    os.write(2, b'x' * 65536)", args=("-s",)),
    # --- before, between and after tests
    Culprit(
        name="import-of-a-conftest",
        conftest="def stuck_import():\n    note()\n    time.sleep(LONG)\n\nstuck_import()",
        frame="stuck_import",
        running=False,
        finished=0,
    ),
    Culprit(
        name="import-of-a-test-file",
        module="def stuck_import():\n    note()\n    time.sleep(LONG)\n\nstuck_import()",
        frame="stuck_import",
        running=False,
        finished=0,
    ),
    Culprit(
        name="collection",
        conftest="def pytest_collection_modifyitems():\n    note()\n    time.sleep(LONG)",
        frame="pytest_collection_modifyitems",
        running=False,
        finished=0,
    ),
    Culprit(
        name="fixture-set-up",
        module="@pytest.fixture\ndef stuck():\n    note()\n    time.sleep(LONG)\n\n"
        "@pytest.fixture(autouse=True)\ndef chosen(request):\n"
        "    if request.node.name == 'test_culprit':\n        request.getfixturevalue('stuck')",
        frame="stuck",
    ),
    Culprit(
        name="session-fixture-teardown",
        conftest="@pytest.fixture(scope='session', autouse=True)\ndef stuck_teardown():\n"
        "    yield\n    note()\n    time.sleep(LONG)",
        frame="stuck_teardown",
    ),
    Culprit(
        name="sessionfinish",
        conftest="def pytest_sessionfinish():\n    note()\n    time.sleep(LONG)",
        frame="pytest_sessionfinish",
        running=False,
    ),
    Culprit(
        name="atexit",
        test="import atexit\n\ndef stuck_at_exit():\n    time.sleep(LONG)\n\natexit.register(stuck_at_exit)",
        frame="stuck_at_exit",
        running=False,
    ),
    Culprit(
        name="thread-at-exit",
        test="def stuck_thread():\n    time.sleep(LONG)\n\nthreading.Thread(target=stuck_thread).start()",
        frame="stuck_thread",
        running=False,
    ),
    Culprit(
        name="c-destructor-at-exit",
        test="libc = ctypes.PyDLL(None)\nlibc.__cxa_atexit(libc.pause, None, None)",
        frame="",
        running=False,
    ),
)
