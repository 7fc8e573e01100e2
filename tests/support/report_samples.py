"""Runs to render: one like an ML project's pull request, one of any size, one with hostile names and messages."""

from __future__ import annotations

import random
from collections.abc import Iterable

from orchestrator.words.errors import ExitCode
from orchestrator.words.event import ChangedFile, Changes, Event, GithubRun, PullRequest
from orchestrator.words.plan import Plan, PythonFacts, TierPlan
from orchestrator.words.results import (
    Attempt,
    Benchmark,
    Coverage,
    Ending,
    FileCoverage,
    TestOutcome,
    TestResult,
    TierResult,
)
from orchestrator.words.verdict import KnownGap, PatchCoverage, RunVerdict, TierVerdict, Verdict

SHA = "9f2c41d7be0a5c83e6611f0d2b7c94a3d85e10f6"
STARTED = 1_763_830_000.0

TRACEBACK = """\
device = device(type='cpu'), small_batch = {'inputs': tensor([[ 4, 11, 29, ...]]), 'labels': tensor([2, 0, 1, 3])}

    def test_loss_matches_reference(device, small_batch):
        model = MyTransformerModel(vocab_size=32, hidden_size=16, num_layers=2, num_classes=4).to(device)
        logits = model(small_batch["inputs"])
>       loss = FocalLoss(gamma=2.0)(logits, small_batch["labels"])

tests/unit/test_losses.py:41:
_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

self = FocalLoss(), logits = tensor([[ 0.1204, -0.0911,  0.3310, -0.2079]]), target = tensor([2, 0, 1, 3])

    def forward(self, logits, target):
        log_p = torch.log_softmax(logits, dim=-1)
        p = log_p.exp().gather(-1, target)
>       focal = (1 - p) ** self.gamma * -log_p.gather(-1, target)
E       RuntimeError: Index tensor must have the same number of dimensions as input tensor

src/training/losses.py:58: RuntimeError"""


def a_test(node_id: str, outcome: TestOutcome, **more: object) -> TestResult:
    return TestResult(node_id=node_id, outcome=outcome, **more)  # type: ignore[arg-type]


def run_of(
    *tiers: TierVerdict,
    verdict: Verdict | None = None,
    event: Event | None = None,
    **more: object,
) -> RunVerdict:
    """A run of these tiers, its verdict the worst of theirs."""
    worst = min((tier.verdict for tier in tiers), key=lambda v: v.severity, default=Verdict.NOT_RUN)
    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="c0ffee",
        event=event or Event(name="local"),
        changes=Changes(files=None, source="no base"),
        tiers=tuple(tier.plan for tier in tiers),
    )
    values = {"plan": plan, "verdict": verdict or worst, "exit_code": ExitCode.PASSED, "tiers": tiers} | more
    return RunVerdict(**values)  # type: ignore[arg-type]


def tier_of(
    name: str,
    tests: Iterable[TestResult] = (),
    *,
    verdict: Verdict = Verdict.PASSED,
    reasons: tuple[str, ...] = (),
    budget: float = 120.0,
    **more: object,
) -> TierVerdict:
    """A tier that ran here with these tests."""
    tests = tuple(tests)
    values: dict[str, object] = {"ending": Ending.EXITED, "exit_code": 0, "seconds": 12.0, "has_report": True} | more
    result = TierResult(name=name, tests=tests, **values)  # type: ignore[arg-type]
    plan = TierPlan(name=name, run=True, reason="push is in `when`", budget=budget)
    return TierVerdict(plan=plan, result=result, verdict=verdict, reasons=reasons)


def not_run_tier(name: str, reason: str, **plan: object) -> TierVerdict:
    values: dict[str, object] = {"budget": 1800.0} | plan
    return TierVerdict(
        plan=TierPlan(name=name, run=False, reason=reason, **values),  # type: ignore[arg-type]
        result=None,
        verdict=Verdict.NOT_RUN,
        reasons=(reason,),
    )


def big_run(count: int, *, tiers: int = 1, failing: float = 0.01, lines: int = 30) -> RunVerdict:
    """``count`` tests over ``tiers`` tiers of eight workers, a share of them failing with long tracebacks."""
    rng = random.Random(count)
    verdicts = []
    for tier in range(tiers):
        clocks = [0.0] * 8
        tests = []
        for number in range(tier * count // tiers, (tier + 1) * count // tiers):
            worker = number % 8
            seconds = rng.expovariate(200) + 0.0004
            bad = rng.random() < failing
            clocks[worker] += rng.expovariate(2000)
            path = f"tests/unit/area_{number // 1000:03d}/test_module_{number // 50:05d}.py"
            text = "\n".join(f"    line {line} of what pytest prints for test {number}" for line in range(lines - 2))
            tests.append(
                TestResult(
                    node_id=f"{path}::TestModel::test_case[{number}]",
                    outcome=TestOutcome.FAILED if bad else TestOutcome.PASSED,
                    seconds=seconds,
                    worker=f"gw{worker}",
                    started=STARTED + clocks[worker],
                    message=f"AssertionError: case {number} differs" if bad else None,
                    text=f"{text}\nE   AssertionError: case {number} differs\n\ntests/x.py:7: AssertionError"
                    if bad
                    else None,
                    file="tests/x.py" if bad else None,
                    line=number % 37 + 1 if bad else None,
                )
            )
            clocks[worker] += seconds
        verdicts.append(
            tier_of(
                f"tier-{tier}",
                tests,
                verdict=Verdict.FAILED,
                reasons=("tests failed",),
                seconds=max(clocks) + 1.0,
                started=STARTED,
                workers=8,
            )
        )
    return run_of(*verdicts)


HOSTILE_NAMES = (
    "tests/test_a.py::test_x[</script><img src=x onerror=document.body.dataset.pwned=1>]",
    "tests/test_a.py::test_y[<!--<script>alert(1)</script>]",
    "tests/test_a.py::test_rtl[\u202egnp.exe\u2066]",
    "tests/test_a.py::test_ansi[\x1b[31mred\x1b[0m\x1b]0;title\x07]",
    "tests/test_a.py::test_nul[a\x00b\x7f\x9b]",
    "tests/test_a.py::test_quote['\"`$(touch /tmp/x)\\]",
    "tests/test_a.py::test_lines[a\u2028b\u2029c\nd]",
    "tests/test_a.py::test_surrogate[\ud800]",
    "tests/test_a.py::test_proto[__proto__][constructor]",
    "tests/test_a.py::test_emoji[\U0001f600\u00e9]",
)


def hostile_run() -> RunVerdict:
    """Every name, message, reason and word from outside tries to be something other than text."""
    evil = "</script><svg onload=document.body.dataset.pwned=2>\x1b[31m\u202e\x00"
    tests = [
        a_test(name, TestOutcome.FAILED, message=f"{name} {evil}", text=f"> {evil}\nE  {evil}", file=evil, line=3)
        for name in HOSTILE_NAMES
    ]
    tests += [a_test(f"{name}s", TestOutcome.SKIPPED, message=evil, worker=evil, started=5.0) for name in HOSTILE_NAMES]
    tier = tier_of(
        evil,
        tests,
        verdict=Verdict.FAILED,
        reasons=(evil,),
        benchmarks=(Benchmark(name=evil, minimum=1e-6, median=float("nan"), mean=2e-6, stddev=0.0, rounds=3),),
        benchmark_machine={"cpu": {"brand_raw": evil}},
        output_tail=evil,
        stacks=evil,
        notes=(evil,),
        problems=(evil,),
        coverage=Coverage(files={evil: FileCoverage(executed=frozenset({1}), missing=frozenset({2}))}),
    )
    event = Event(name=evil, sha=evil, repository=evil, ref=evil, server_url="javascript:alert(1)//")
    assert tier.result is not None
    return run_of(tier, event=event, reasons=(evil,), coverage=tier.result.coverage, coverage_note=evil)


# --- a pull request of an ML project --------------------------------------------------------------------------------

UNIT_FILES = {
    "tests/unit/test_data.py": (
        "TestNormalize::test_columns_are_standardized[float32]",
        "TestNormalize::test_columns_are_standardized[float64]",
        "TestNormalize::test_constant_column_gives_no_nan",
        "TestNormalize::test_empty_input",
        "TestTextDataset::test_items_have_input_ids_and_mask",
        "TestTextDataset::test_labels_only_where_given",
        "TestTextDataset::test_long_text_is_truncated",
        "test_tokenizer_round_trip[plain]",
        "test_tokenizer_round_trip[unicode]",
        "test_tokenizer_round_trip[punctuation]",
        "test_augmentation_keeps_length",
        "test_augmentation_is_seeded",
    ),
    "tests/unit/test_models.py": (
        "TestTransformer::test_output_shape[1]",
        "TestTransformer::test_output_shape[8]",
        "TestTransformer::test_output_shape[64]",
        "TestTransformer::test_every_parameter_gets_a_gradient",
        "TestTransformer::test_eval_is_deterministic",
        "TestTransformer::test_samples_do_not_influence_each_other",
        "TestTransformer::test_padding_is_ignored",
        "TestTransformer::test_state_dict_round_trip",
        "test_tiny_model_parameter_count",
        "test_half_precision_forward",
    ),
    "tests/unit/test_losses.py": (
        "test_loss_matches_reference[0.0]",
        "test_loss_matches_reference[1.0]",
        "test_loss_matches_reference[2.0]",
        "test_loss_matches_reference[5.0]",
        "test_focal_equals_cross_entropy_at_gamma_zero",
        "test_contrastive_pulls_pairs_together",
        "test_contrastive_margin[0.1]",
        "test_contrastive_margin[0.5]",
        "test_loss_is_finite_for_extreme_logits",
    ),
    "tests/unit/test_predictor.py": (
        "test_empty_input_is_refused",
        "test_confidence_is_a_probability",
        "test_batch_agrees_with_single",
        "test_loads_bare_state_dict",
        "test_long_input_is_truncated",
    ),
}


def _unit_tests(rng: random.Random) -> list[TestResult]:
    clocks = {f"gw{n}": 1.9 + 0.12 * n for n in range(4)}
    tests = []
    for path, names in UNIT_FILES.items():
        for name in names:
            worker = min(clocks, key=lambda w: clocks[w])
            seconds = min(9.5, rng.lognormvariate(0.4, 0.9))
            outcome, more = TestOutcome.PASSED, {}
            if "matches_reference" in name:
                outcome = TestOutcome.FAILED
                more = {
                    "message": "RuntimeError: Index tensor must have the same number of dimensions as input tensor",
                    "text": TRACEBACK,
                    "file": "src/training/losses.py",
                    "line": 58,
                }
            elif "half_precision" in name:
                outcome, more = TestOutcome.SKIPPED, {"message": "needs CUDA"}
                seconds = 0.0003
            elif "test_augmentation_is_seeded" in name:
                outcome, more = TestOutcome.XFAILED, {"message": "augmentation is not seeded per worker yet"}
            elif "batch_agrees" in name:
                outcome = TestOutcome.FAILED
                more = {
                    "message": "AssertionError: assert 0.7312 == 0.7308 ± 1.0e-04",
                    "text": "    def test_batch_agrees_with_single(predictor):\n"
                    "        single = [predictor.predict(t)['confidence'] for t in TEXTS]\n"
                    "        batch = [p['confidence'] for p in predictor.predict_batch(TEXTS)]\n"
                    ">       assert single[0] == pytest.approx(batch[0], abs=1e-4)\n"
                    "E       AssertionError: assert 0.7312 == 0.7308 ± 1.0e-04\n\n"
                    "tests/unit/test_predictor.py:52: AssertionError",
                    "file": "tests/unit/test_predictor.py",
                    "line": 52,
                }
            tests.append(
                TestResult(
                    node_id=f"{path}::{name}",
                    outcome=outcome,
                    seconds=seconds,
                    worker=worker,
                    started=STARTED + clocks[worker],
                    **more,  # type: ignore[arg-type]
                )
            )
            clocks[worker] += seconds + 0.02
    return tests


def _integration_tests() -> list[TestResult]:
    rows = (
        ("test_training.py::test_overfits_one_batch", 14.2, "gw0", 2.4),
        ("test_training.py::test_loss_falls_on_toy_problem[sgd]", 9.1, "gw1", 2.5),
        ("test_training.py::test_loss_falls_on_toy_problem[adam]", 8.7, "gw1", 11.8),
        ("test_training.py::test_resume_equals_uninterrupted", 7.7, "gw1", 20.6),
        ("test_pipeline.py::test_end_to_end_prediction", 3.4, "gw0", 16.9),
        ("test_pipeline.py::test_predictor_from_checkpoint", 2.6, "gw0", 20.4),
    )
    return [
        TestResult(
            node_id=f"tests/integration/{name}",
            outcome=TestOutcome.PASSED,
            seconds=seconds,
            worker=worker,
            started=STARTED + 31 + begin,
            attempts=(
                Attempt(
                    outcome=TestOutcome.FAILED, seconds=8.3, message="AssertionError: loss 0.412 > 0.400 after 50 steps"
                ),
            )
            if "[adam]" in name
            else (),
        )
        for name, seconds, worker, begin in rows
    ]


def _coverage() -> Coverage:
    def file(statements: int, missing: Iterable[int]) -> FileCoverage:
        lost = frozenset(missing)
        return FileCoverage(
            executed=frozenset(range(1, statements + 1)) - lost,
            missing=lost,
            executed_branches=frozenset((line, line + 1) for line in range(1, statements, 4) if line not in lost),
            missing_branches=frozenset((line, line + 2) for line in lost if line % 4 == 1),
        )

    return Coverage(
        files={
            "src/data/normalize.py": file(34, ()),
            "src/data/dataset.py": file(72, (41, 42, 66)),
            "src/data/tokenizer.py": file(58, (50,)),
            "src/data/augment.py": file(41, range(28, 37)),
            "src/models/transformer.py": file(96, (81, 82)),
            "src/models/cuda_ops.py": file(44, range(6, 44)),
            "src/training/losses.py": file(71, (*range(57, 66), 70)),
            "src/training/loop.py": file(118, (*range(90, 97), 103, 104, 110)),
            "src/inference/predictor.py": file(63, (44, 45, 46)),
        },
    )


def _integration_coverage() -> Coverage:
    parts = ("src/training/", "src/inference/", "src/models/transformer")
    return Coverage(files={path: file for path, file in _coverage().files.items() if path.startswith(parts)})


def _timed(path: str, seconds: float, begin: float, **more: object) -> TestResult:
    """A test of a worker "main", ``begin`` seconds into the run."""
    values: dict[str, object] = {"outcome": TestOutcome.PASSED} | more
    return TestResult(node_id=path, seconds=seconds, worker="main", started=STARTED + begin, **values)  # type: ignore[arg-type]


def _regression_tests() -> tuple[TestResult, ...]:
    golden = "tests/regression/test_golden.py::test_metrics_match_golden"
    said = "was running for 39.5 s when the tier was stopped at its budget"
    return (
        _timed(f"{golden}[tiny]", 18.4, 65.0),
        _timed(f"{golden}[small]", 39.5, 83.8, outcome=TestOutcome.UNFINISHED, message=said),
    )


def _benchmark(name: str, minimum: float, median: float, stddev: float, rounds: int) -> Benchmark:
    return Benchmark(name=name, minimum=minimum, median=median, mean=median * 1.03, stddev=stddev, rounds=rounds)


BENCHMARKS = (
    _benchmark("test_forward[batch=8]", 0.00214, 0.00231, 0.00018, 412),
    _benchmark("test_forward[batch=64]", 0.0127, 0.0133, 0.0007, 74),
    _benchmark("test_tokenize_1k", 0.000318, 0.000331, 0.00004, 2890),
    _benchmark("test_predict_single", 0.00241, 0.00262, 0.0002, 377),
)


def _result(name: str, begin: float, seconds: float, tests: Iterable[TestResult], **more: object) -> TierResult:
    values: dict[str, object] = {"ending": Ending.EXITED, "exit_code": 0, "workers": 1, "has_report": True} | more
    return TierResult(
        name=name,
        started=STARTED + begin,
        seconds=seconds,
        tests=tuple(tests),
        **values,  # type: ignore[arg-type]
    )


def _plan(name: str, budget: float, workers: int, **more: object) -> TierPlan:
    python = PythonFacts(
        executable="python",
        version="3.11.9",
        pytest="9.0.1",
        xdist="3.8.0",
        cov="7.0.0",
        benchmark="5.2.3",
        torch="2.13.0",
    )
    values: dict[str, object] = {
        "reason": "pull_request is in `when`",
        "python": python,
        "command": ("python", "-m", "pytest", f"tests/{name}", "-n", str(workers), "-m", "not gpu and not slow"),
    } | more
    return TierPlan(name=name, run=True, budget=budget, workers=workers, **values)  # type: ignore[arg-type]


def _sample_tiers(coverage: Coverage) -> tuple[TierVerdict, ...]:
    cuda = ("self-hosted", "linux", "cuda")
    unit = _unit_tests(random.Random(7))
    machine = {"cpu": {"brand_raw": "AMD EPYC 7763 64-Core Processor"}, "python_version": "3.11.9", "system": "Linux"}
    speed = [_timed(f"tests/benchmarks/test_speed.py::{b.name}", 3.1, 85.5 + 4 * i) for i, b in enumerate(BENCHMARKS)]
    return (
        TierVerdict(
            plan=_plan("unit", 120, 4, coverage_minimum=85.0),
            result=_result("unit", 0, 27.4, unit, exit_code=1, coverage=coverage, workers=4, deselected=6),
            verdict=Verdict.FAILED,
            reasons=("5 tests failed",),
            exit_code=ExitCode.FAILED,
        ),
        TierVerdict(
            plan=_plan("integration", 180, 2, retries=1),
            result=_result("integration", 31, 31.6, _integration_tests(), coverage=_integration_coverage(), workers=2),
            verdict=Verdict.FLAKY,
            reasons=("1 test failed and then passed on a retry",),
        ),
        TierVerdict(
            plan=_plan("regression", 60, 1),
            result=_result(
                "regression",
                63,
                60.3,
                _regression_tests(),
                ending=Ending.DEADLINE,
                exit_code=None,
                coverage_note="the tier was stopped before coverage was written",
                output_tail="tests/regression/test_golden.py::test_metrics_match_golden[tiny] PASSED\n",
            ),
            verdict=Verdict.OVER_BUDGET,
            reasons=("stopped at its budget of 1m: test_metrics_match_golden[small] was running for 39.5 s",),
            exit_code=ExitCode.FAILED,
        ),
        TierVerdict(
            plan=_plan("speed", 300, 1, coverage=False, benchmark=True, required=False),
            result=_result("speed", 84, 18.2, speed, benchmarks=BENCHMARKS, benchmark_machine=machine),
            verdict=Verdict.PASSED,
        ),
        not_run_tier(
            "gpu",
            "needs the label ready-for-gpu, a merge group or the comment /mltiers gpu",
            where="dispatched",
            runner=cuda,
            gpus=1,
        ),
        not_run_tier("convergence", "nightly only", where="dispatched", runner=cuda, required=False),
    )


def sample_run() -> RunVerdict:
    """A pull request that breaks a loss: failures with one cause, a flaky test, an over-budget tier, tiers not run."""
    coverage = _coverage()
    tiers = _sample_tiers(coverage)
    home = "acme/text-classifier"
    event = Event(
        name="pull_request",
        repository=home,
        sha=SHA,
        base_ref="main",
        pull_request=PullRequest(number=218, head_sha=SHA, head_repository=home, base_ref="main", base_sha="0" * 40),
        run=GithubRun(run_id=10482213377, attempt=1, url=f"https://github.com/{home}/actions/runs/10482213377"),
    )
    changed = ("src/training/losses.py", "src/inference/predictor.py", "tests/unit/test_losses.py")
    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="c0ffee",
        event=event,
        changes=Changes(files=tuple(ChangedFile(path=path, status="modified") for path in changed), source="git"),
        tiers=tuple(tier.plan for tier in tiers),
        source=("src",),
        coverage_minimum=80.0,
        coverage_patch=80.0,
    )
    uncovered = {"src/training/losses.py": (60, 61, 62, 63, 65), "src/inference/predictor.py": (44, 45)}
    return RunVerdict(
        plan=plan,
        verdict=Verdict.FAILED,
        exit_code=ExitCode.FAILED,
        tiers=tiers,
        reasons=("coverage of the change is 63.1%, below 80%",),
        coverage=coverage,
        known_gaps=(KnownGap(name="src/models/cuda_ops.py::fused_attention", lines=21, covered=0),),
        patch=PatchCoverage(covered=12, measured=19, uncovered=uncovered),
    )
