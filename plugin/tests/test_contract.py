"""The contract: each check a test of its own, what does not apply skipped with its reason, failures that explain."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from pytest_mltiers import Subject  # noqa: E402
from pytest_mltiers.contract import contract, examine  # noqa: E402

HEADER = """
    import torch
    from torch import nn
    from torch.nn import functional as F
    from pytest_mltiers import ModelContract, Subject

    def batch():
        return torch.randn(6, 3), torch.randint(0, 2, (6,))

    class Leaky(nn.Linear):
        def forward(self, x):
            return super().forward(x - x.mean(0))

    def step(model, optimizer, batch):
        loss = F.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss
"""


def test_each_check_is_a_test_that_passes_fails_or_says_why_not(run_suite):
    run = run_suite(
        HEADER
        + """
    class TestGood(ModelContract):
        test_overfits = None  # a linear model cannot learn random labels by heart

        def subject(self):
            return Subject(model=lambda: nn.Linear(3, 2), batch=batch, output_shape=("N", 2), loss=F.cross_entropy,
                           task="classification", classes=2)

    class TestBad(ModelContract):
        seed = 3
        test_overfits = None

        def subject(self):
            return Subject(model=lambda: Leaky(3, 2), batch=batch, output_shape=("N", 7), loss=F.cross_entropy,
                           optimizer=lambda m: torch.optim.SGD(m.parameters(), lr=0.1), step=step)

    class TestEmpty(ModelContract):
        pass
    """,
        "-rs",
        "-k",
        "not TestEmpty or test_finite",
    )
    outcomes = {e["nodeid"].partition("::")[2]: e["outcome"] for e in run.of("phase", phase="call")}
    assert not [n for n, o in outcomes.items() if n.startswith("TestGood") and o == "failed"]
    assert outcomes["TestGood::test_batch_independent"] == "passed"
    assert "TestGood::test_overfits" not in outcomes
    failed = {n.partition("::test_")[2] for n, o in outcomes.items() if n.startswith("TestBad") and o == "failed"}
    assert failed == {"output_shape", "batch_independent", "batch_sizes", "step_gradients_forget"} | (
        failed & {"step_gradients_are_this_batchs", "resumes", "gradients_reach"}
    )
    assert "the subject has no `dataset`" in run.out
    assert "likely cause: zero_grad() is missing" in run.out
    assert "usual fix:    optimizer.zero_grad() at the start of every step" in run.out
    assert "TestEmpty needs a method subject()" in run.out


def test_the_subject_leaves_no_trace_in_the_random_state():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    outcomes = list(
        examine(Subject(model=lambda: torch.nn.Linear(3, 2), batch=lambda: (torch.randn(4, 3), None)), seed=7)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert {o.status for o in outcomes} == {"passed", "skipped"}
    assert all(o.message for o in outcomes if o.status == "skipped")


def test_an_error_in_the_subject_is_a_failure_with_its_own_words():
    def broken():
        raise KeyError("no such layer")

    (outcome,) = examine(Subject(model=broken, batch=lambda: (torch.zeros(2, 1), None)), only=("finite",))
    assert (outcome.status, outcome.message) == ("failed", "KeyError: 'no such layer'")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"step": lambda model, loader: None}, "Subject.step takes model, optimizer, scheduler, batch, index by name"),
        ({"batch": lambda: torch.zeros(2, 3)}, "must give a pair"),
        ({"model": lambda: "resnet"}, "not a torch.nn.Module"),
        ({"task": "clasification", "loss": torch.nn.functional.cross_entropy}, "one of classification, binary"),
    ],
)
def test_a_wrong_subject_is_told_so(fields, said):
    good = {
        "model": lambda: torch.nn.Linear(3, 2),
        "batch": lambda: (torch.randn(4, 3), torch.tensor([0, 1, 0, 1])),
        "optimizer": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": torch.nn.functional.cross_entropy,
    }
    outcomes = examine(
        Subject(**good | fields), only=("step_modes", "step_parameters_change", "loss_zero_when_perfect")
    )
    assert any(said in o.message for o in outcomes if o.status == "failed")


def test_the_guide_lists_every_check_with_what_it_catches():
    guide = Path(__file__).resolve().parents[2] / "docs" / "writing-ml-tests.md"
    rows = [f"| `{item.name}` | {item.catches} | {', '.join(item.needs)} |" for item in contract()]
    missing = [row for row in rows if row not in guide.read_text(encoding="utf-8").splitlines()]
    assert not missing, "paste into docs/writing-ml-tests.md:\n" + "\n".join(rows)
