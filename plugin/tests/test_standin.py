"""The stand-in for what torch imports for its first optimiser: nobody misses the real one, and whoever asks has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux only")

SOURCE = Path(__file__).resolve().parent.parent / "src"
WARM = SOURCE / "pytest_mltiers" / "warm"

TRAINS = """
    import sys, torch
    from torch import nn

    def real():
        return type(sys.modules["torch._dynamo"]).__name__ == "module"

    def train(kind=torch.optim.Adam, **options):
        net = nn.Linear(4, 2)
        optimizer = kind(net.parameters(), **options)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.ones(1, 4)).sum().backward()
            optimizer.step(lambda: net(torch.ones(1, 4)).sum())
        optimizer.load_state_dict(optimizer.state_dict())
        return net, optimizer
"""


def python(text: str, *, begin: str = "import torch, standin\nassert standin.stand_in()\n", timeout: int = 120) -> str:
    """What a Python prints that has imported torch and has the stand-in."""
    done = subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(TRAINS) + textwrap.dedent(text)],
        env={**os.environ, "PYTHONPATH": str(WARM)},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_changes_nothing_of_torch_but_what_finds_parts():
    text = """
        import sys, torch, standin
        ours = {name: module for name, module in sys.modules.items() if name.startswith("torch")}
        before = {name: set(getattr(module, "__dict__", {})) for name, module in ours.items()}
        standin.stand_in()
        for name in before:
            if more := set(getattr(sys.modules[name], "__dict__", {})) - before[name] - {"__getattr__"}:
                print(name, *more)
    """
    assert python("", begin=textwrap.dedent(text)) == "torch _dynamo\n"


def test_no_optimiser_needs_the_real_one():
    told = python("""
        kinds = {name: kind for name, kind in vars(torch.optim).items()
                 if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)}
        for name in set(kinds) - {"Optimizer", "SparseAdam", "Muon"}:
            train(kinds[name], lr=0.1)
            assert not real(), name
        print(len(kinds))
    """)
    assert int(told) > 12


ASKS = (
    "import torch._dynamo.config as found; assert found is sys.modules['torch._dynamo'].config",
    "from torch._dynamo import eval_frame as found; assert found is sys.modules['torch._dynamo.eval_frame']",
    "import torch._dynamo.utils; found = torch._dynamo.utils; assert found is sys.modules['torch._dynamo.utils']",
    "import importlib.util; assert importlib.util.find_spec('torch._dynamo.variables.base')",  # imports its package
    "import torch._dynamo.pgo",  # registers itself, once
    "from torch.distributed.tensor.parallel.fsdp import DTensorExtensions",  # which cannot be imported without it
    "found = torch.fx.experimental.symbolic_shapes; assert found.ShapeEnv",
    "assert torch.distributed.tensor.DTensor",
    "assert 'reset' in dir(torch._dynamo)",
    "torch.compiler.reset()",
    "@torch._dynamo.disable\ndef f(): pass\nassert f._torchdynamo_disable and f() is None",
    "assert torch.compile(net, backend='eager')(torch.ones(1, 4)).shape == (1, 2); train()",
)


def test_whoever_asks_for_more_has_the_real_one():
    told = python(f"""
        import os
        net, _ = train()
        assert not real()
        for number, ask in enumerate({ASKS}):
            if os.fork() == 0:  # each of a process that has imported torch
                exec(ask)
                print(number, real(), torch._dynamo is sys.modules["torch._dynamo"], flush=True)
                os._exit(0)
            os.wait()
    """)
    assert told.splitlines() == [f"{number} True True" for number in range(len(ASKS))]


def test_torch_imports_its_own_parts_without_it():
    """`assert_close` imports `torch.distributed.tensor`, and that is half there when its parts ask for each other."""
    told = python("""
        net, _ = train()
        torch.testing.assert_close(net.weight, net.weight.clone())
        print("torch.distributed.tensor" in sys.modules, real())
        print(hasattr(torch.distributed.tensor, "DTensor"), real())
    """)
    assert told.split() == ["True", "False"] * 2


def test_a_part_that_is_asked_for_is_executed_once():
    told = python("""
        import os
        train()
        for name in ("exc", "utils", "config", "pgo", "variables", "variables.base"):
            if os.fork() == 0:
                ran = []
                sys.addaudithook(lambda event, args: event == "exec" and ran.append(args[0].co_filename))
                found = __import__(f"torch._dynamo.{name}", fromlist=["x"])
                print(name, ran.count(found.__file__), found is sys.modules[f"torch._dynamo.{name}"], flush=True)
                os._exit(0)
            os.wait()
    """)
    assert [line.split()[1:] for line in told.splitlines()] == [["1", "True"]] * 6


def test_whoever_only_looks_for_a_part_imports_nothing():
    told = python("""
        import importlib.util
        train()
        names = ("torch._dynamo.utils", "torch.distributed.tensor")
        found = [importlib.util.find_spec(name).name for name in names]
        print(*found, real(), *(name in sys.modules for name in names))
        ran = []
        sys.addaudithook(lambda event, args: event == "exec" and ran.append(args[0].co_filename))
        import torch._dynamo.utils as utils
        print(ran.count(utils.__file__), utils.__spec__.origin == utils.__file__, utils is torch._dynamo.utils)
    """)
    assert told.splitlines() == ["torch._dynamo.utils torch.distributed.tensor False False False", "1 True True"]


@pytest.mark.campaign
def test_every_part_is_imported_after_an_optimiser_as_if_the_real_one_had_been(tmp_path):
    text = """
        import importlib, json, os
        {begin}
        train()
        outcomes = {{}}
        for name in json.load(open({names!r})):
            read, write = os.pipe()
            if os.fork() == 0:
                try:
                    importlib.import_module(name)
                    told = "imported"
                except BaseException as error:
                    told = f"{{type(error).__name__}}: {{error}}"[:1000]
                os.write(write, told.encode())
                os._exit(0)
            os.close(write)
            with open(read) as stream:
                outcomes[name] = stream.read()
            os.wait()
        json.dump(outcomes, open({out!r}, "w"))
    """
    names, out = tmp_path / "names.json", tmp_path / "outcomes.json"
    python(f"""
        import json
        before = set(sys.modules)
        import torch._dynamo
        json.dump([name for name in sys.modules if name.startswith("torch.") and name not in before],
                  open({str(names)!r}, "w"))
    """, begin="")  # fmt: skip
    found = []
    for ours in (True, False):
        begin = "import standin; standin.stand_in()" if ours else "pass"
        python(text.format(begin=begin, names=str(names), out=str(out)), begin="import torch\n", timeout=1800)
        found.append(json.loads(out.read_text()))
    assert len(found[0]) > 200
    assert found[0] == found[1]


def test_its_parts_are_loaded_once_and_are_where_they_would_be():
    text = """
        import torch._dynamo.config, torch._dynamo.trace_rules
        for name, module in sys.modules.items():
            if name.startswith("torch._dynamo."):
                parent, _, child = name.rpartition(".")
                print(name, module.__spec__.name, vars(sys.modules[parent]).get(child) is module)
        print(*map(str, map(type, sys.meta_path)))
        finds_more = [name for name, module in sys.modules.items() if "__getattr__" in vars(module)]
        print(*(name for name in finds_more if name.startswith("torch.")))
    """
    assert sorted(python(text).split()) == sorted(python(text, begin="").split())


def test_what_torch_would_not_have_imported_yet_is_not_found():
    told = python("""
        print(hasattr(torch.fx.experimental, "symbolic_shapes"), real())  # no optimiser was made
        train()
        print(hasattr(torch.fx.experimental, "no_such_part"), hasattr(torch.nn, "no_such_thing"), real())
        print(hasattr(torch.fx.experimental, "symbolic_shapes"), real())
    """)
    assert told.split("\n")[:3] == ["False False", "False False False", "True True"]


def test_what_is_set_on_it_is_set_on_the_real_one():
    told = python("""
        import torch._dynamo as early
        train()
        early.mine = 1
        early.disable = "patched"
        print(sys.modules["torch._dynamo"].mine, early.mine, torch._dynamo.disable, real())
        del early.mine
        print(hasattr(torch._dynamo, "mine"))
    """)
    assert told.split() == ["1", "1", "patched", "True", "False"]


def test_what_an_optimiser_was_given_before_is_not_compiled_either():
    told = python("""
        _, optimizer = train()
        wrapped = torch.optim.Optimizer.zero_grad.__wrapped__
        print(hasattr(wrapped.__dynamo_disable, "_torchdynamo_disable"))
        torch._dynamo.reset()
        print(wrapped.__dynamo_disable._torchdynamo_disable)
        optimizer.zero_grad()
    """)
    assert told.split() == ["False", "True"]


def test_whoever_looks_at_every_module_there_is_imports_nothing():
    told = python("""
        import inspect, unittest, warnings
        train()
        class Test(unittest.TestCase):
            def runTest(self):
                with self.assertWarns(UserWarning):
                    warnings.warn("careful")
        assert unittest.TextTestRunner().run(Test()).wasSuccessful()
        inspect.getmodule(train)
        [getattr(module, "__version__", None) for module in list(sys.modules.values())]
        print(real())
    """)
    assert told.split() == ["False"]


def test_threads_that_ask_at_once_have_the_same_one():
    told = python("""
        import threading
        train()
        early, found, barrier = torch._dynamo, [], threading.Barrier(4)
        def ask():
            barrier.wait()
            found.append(early.config)
        threads = [threading.Thread(target=ask) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(len(found), {id(one) for one in found} == {id(sys.modules["torch._dynamo.config"])})
    """)
    assert told.split() == ["4", "True"]


@pytest.mark.parametrize(
    ("optimizer", "stands_in"),
    [
        ("import torch\ndef step():\n    import torch._dynamo\n    torch._dynamo.graph_break()\n", True),
        ("def step():\n    torch._dynamo.graph_break()\n    torch._dynamo.something_new()\n", False),
        ("def step():\n    from torch._dynamo import something\n", False),
        ("def step():\n    '''As `torch._dynamo.something`.'''  # torch._dynamo.something()\n", True),
    ],
)
def test_a_torch_whose_optimisers_ask_for_more_is_left_alone(tmp_path, optimizer, stands_in):
    files = {
        "torch/__init__.py": "import torch._compile, torch.optim.optimizer",
        "torch/_compile.py": "def disabled(fn):\n    import torch._dynamo\n    return torch._dynamo.disable(fn)\n",
        "torch/optim/__init__.py": "",
        "torch/optim/optimizer.py": optimizer,
        "torch/_dynamo/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", "import torch, standin; print(standin.stand_in(), standin.stand_in())"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{WARM}"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(stands_in)] * 2


SUITE = """
    import sys, warnings, pytest, torch
    from torch import nn

    def step(net):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    def test_close():
        net = nn.Linear(2, 2)
        step(net)
        torch.testing.assert_close(net(torch.ones(1, 2)), net(torch.ones(1, 2)))
    def test_learns(): step(nn.Linear(2, 2))
    def test_refused():
        with pytest.raises(ValueError, match="empty parameter list"):
            torch.optim.SGD([], lr=0.1)
    def test_fails(): torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=-1)
    def test_twice():
        net = nn.Linear(2, 2)
        with pytest.warns(UserWarning, match="duplicate parameters") as found:
            torch.optim.SGD([*net.parameters(), *net.parameters()], lr=0.1)
        assert len(found) == 1
    def test_part():
        step(nn.Linear(2, 2))
        assert torch.fx.experimental.symbolic_shapes.ShapeEnv
    def test_compiled():
        net = nn.Linear(2, 2)
        step(net)
        assert torch.compile(net, backend="eager")(torch.ones(1, 2)).shape == (1, 2)
    def test_checkpointed():
        from torch.utils.checkpoint import checkpoint
        checkpoint(nn.Linear(2, 2), torch.ones(1, 2), use_reentrant=False).sum().backward()
    def test_patched(monkeypatch):
        import torch._dynamo
        monkeypatch.setattr(torch._dynamo, "graph_break", None)
        with pytest.raises(TypeError):
            step(nn.Linear(2, 2))
"""


def test_a_suite_ends_as_it_does_on_plain_workers(tmp_path):
    suite = tmp_path / "test_it.py"
    suite.write_text(textwrap.dedent(SUITE))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"modules": ["torch"]}))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MLTIERS", "COV"))}
    env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(SOURCE), "OPENBLAS_NUM_THREADS": "1"}
    lines = []
    for how in (["-m", "pytest"], [str(WARM / "start.py"), str(report), "--"]):
        words = [sys.executable, *how, "-p", "pytest_mltiers", "-p", "xdist", "-n", "2", "-rA", "--tb=no", "-q"]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
        lines.append(sorted(line for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED"))))

    assert json.loads(report.read_text())["warm"]
    assert lines[0] == lines[1]
    assert [line.split("::")[1].split()[0] for line in lines[0] if line.startswith("FAILED")] == ["test_fails"]
    assert len(lines[0]) == 9
