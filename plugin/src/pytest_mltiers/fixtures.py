"""Fixtures, options and markers for tests of ML code. torch and NumPy are imported only by tests that use them."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_mltiers.randomness import seeded

if TYPE_CHECKING:
    import torch

    from pytest_mltiers.checks.golden import Golden

GPUS_VARIABLE = "MLTIERS_GPUS"
"""The environment variable that says how many GPUs the tier promises. With it, a missing GPU fails tests."""

_SEED = pytest.StashKey[int]()

MARKERS = {
    "slow": "takes more than a few seconds; keep it out of the fast tier with -m 'not slow'",
    "gpu": f"needs a CUDA device: skipped where there is none, failed where {GPUS_VARIABLE} promises one",
    "convergence": "trains until the model has learned; for nightly tiers",
    "gpu_memory(limit)": "fails if torch allocates more than limit on a CUDA device, e.g. '2GiB' or a number of bytes",
    "seed(n, seeds=k)": "runs under seed n (default 0), or under the k seeds from n on; all random state is restored",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--device`` and ``--update-goldens``."""
    group = parser.getgroup("ml", "tests of ML code (pytest-mltiers)")
    group.addoption(
        "--device",
        default="auto",
        help="where the `device` fixture puts tests: auto (CUDA, MPS or CPU, by what is there), cpu, cuda, cuda:1, mps",
    )
    group.addoption("--update-goldens", action="store_true", help="write golden values instead of comparing with them")


def pytest_configure(config: pytest.Config) -> None:
    """The markers, with their help."""
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {text}")


# --- seeds -----------------------------------------------------------------------------------------------------------


def _seeds(marker: pytest.Mark | None) -> list[int]:
    if marker is None:
        return [0]
    first = marker.args[0] if marker.args else marker.kwargs.get("n", 0)
    count = marker.kwargs.get("seeds", 1)
    if not isinstance(first, int) or not isinstance(count, int) or count < 1 or set(marker.kwargs) - {"n", "seeds"}:
        raise pytest.UsageError("@pytest.mark.seed(n, seeds=k): n an integer, k a positive integer")
    return list(range(first, first + count))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``@pytest.mark.seed``: the test uses ``fixed_seed``, asked for or not, once per seed."""
    marker = metafunc.definition.get_closest_marker("seed")
    if marker is None:
        return
    if "fixed_seed" not in metafunc.fixturenames:
        metafunc.fixturenames.insert(0, "fixed_seed")
    seeds = _seeds(marker)
    if len(seeds) > 1:
        metafunc.parametrize("fixed_seed", seeds, indirect=True, ids=[f"seed{s}" for s in seeds])


@pytest.fixture
def fixed_seed(request: pytest.FixtureRequest) -> Iterator[int]:
    """The seed this test runs under: of ``random``, NumPy, and torch on the CPU and all CUDA devices.

    Every generator and every flag (deterministic algorithms, default dtype, cuDNN, TF32, grad mode) is as before when
    the test is over, also when it fails; a failure shows the seed. 0, unless ``@pytest.mark.seed`` says otherwise.
    """
    if importlib.util.find_spec("torch"):
        import torch  # noqa: F401, PLC0415 - a generator that is loaded later would be neither seeded nor restored
    seed = getattr(request, "param", None)
    if seed is None:
        seed = _seeds(request.node.get_closest_marker("seed"))[0]
    request.node.stash[_SEED] = seed
    with seeded(seed):
        yield seed


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The seed goes into the report of a failing test."""
    report = yield
    seed = item.stash.get(_SEED, None)
    if report.failed and seed is not None:
        add = getattr(report.longrepr, "addsection", None)
        if add is not None:
            add("seed", f"failed under seed {seed}; @pytest.mark.seed({seed}) repeats it")
    return report


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """The ``torch.device`` to test on: ``--device``, by default CUDA, MPS or CPU, what is there first."""
    torch = pytest.importorskip("torch")
    wanted = pytestconfig.getoption("--device")
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        mps = getattr(torch.backends, "mps", None)
        return torch.device("mps" if mps is not None and mps.is_available() else "cpu")
    try:
        chosen = torch.device(wanted)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        pytest.fail(f"--device {wanted}: torch cannot use it here ({reason}). Try --device cpu.", pytrace=False)
    return chosen


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked ``gpu`` are skipped without CUDA, and fail where the tier promised it."""
    if item.get_closest_marker("gpu") is None or importlib.util.find_spec("torch") is None:
        return
    import torch  # noqa: PLC0415 - for tests marked gpu only

    if torch.cuda.is_available():
        return
    built = "torch sees no CUDA device" if torch.version.cuda else f"torch {torch.__version__} is built without CUDA"
    promised = os.environ.get(GPUS_VARIABLE, "0")
    if promised not in ("", "0"):
        pytest.fail(f"this tier promises {promised} GPU(s), but {built}", pytrace=False)
    pytest.skip(f"needs a GPU: {built}")


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _bytes(limit: Any) -> int:
    match = re.fullmatch(r"([\d.]+)\s*([A-Za-z]*)", str(limit))
    if match is None or match[2].upper() not in _UNITS:
        raise pytest.UsageError(f"@pytest.mark.gpu_memory({limit!r}): a number of bytes, or like '512MiB' or '2GiB'")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def memory_limit(marker: pytest.Mark) -> int:
    """The bytes that a ``gpu_memory`` mark allows. Raises pytest.UsageError."""
    return _bytes(marker.args[0] if marker.args else marker.kwargs.get("limit"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """``@pytest.mark.gpu_memory(limit)``: the peak of torch's allocations during the test stays below the limit."""
    marker = item.get_closest_marker("gpu_memory")
    if marker is None:
        return (yield)
    limit = memory_limit(marker)
    import torch  # noqa: PLC0415 - for tests with this marker only

    if torch.cuda.is_initialized():  # otherwise there is nothing to reset, and torch refuses to
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)
    result = yield
    for index in range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ():
        peak = torch.cuda.max_memory_allocated(index)
        if peak > limit:
            pytest.fail(f"allocated {peak:,} bytes on cuda:{index}, the limit is {limit:,}", pytrace=False)
    return result


# --- what to test on, and against -------------------------------------------------------------------------------------


@pytest.fixture
def tiny_model(fixed_seed: int) -> Any:
    """A two-layer classifier of 8 features and 3 classes. Override it with your own smallest model."""
    torch = pytest.importorskip("torch")
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


@pytest.fixture
def small_batch(fixed_seed: int) -> tuple[Any, Any]:
    """(inputs (4, 8), labels (4,)) of float32 and int64. Override it with a batch for your own ``tiny_model``."""
    torch = pytest.importorskip("torch")
    return torch.randn(4, 8), torch.randint(0, 3, (4,))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Golden values in ``goldens/<test file>/`` beside the test file: ``golden.check(name, value)``."""
    from pytest_mltiers.checks.golden import Golden  # noqa: PLC0415 - only where it is asked for

    folder = request.path.parent / "goldens" / request.path.stem
    return Golden(folder, update=request.config.getoption("--update-goldens"))
