"""What broke and whose it is: causes, standings against every kind of history, flake rates, slow tests, excerpts."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from orchestrator.mind.excerpts import LINES, excerpt, kind_of, last_words, skeleton
from orchestrator.mind.failures import explain, insight
from orchestrator.mind.records import Record
from orchestrator.mind.records.history import History
from orchestrator.mind.records.names import NO_COMMIT
from orchestrator.mind.render.words import counts
from orchestrator.words.errors import ExitCode
from orchestrator.words.event import Changes, Event, PullRequest
from orchestrator.words.plan import Plan, TierPlan
from orchestrator.words.results import Attempt, Ending, TestOutcome, TestResult, TierResult
from orchestrator.words.verdict import Insight, RunVerdict, Standing, TierVerdict, Verdict

P, F, E, S, U = (
    TestOutcome.PASSED,
    TestOutcome.FAILED,
    TestOutcome.ERROR,
    TestOutcome.SKIPPED,
    TestOutcome.UNFINISHED,
)
HEAD, BASE, OLD, OLDER = "a" * 40, "b" * 40, "c" * 40, "d" * 40
DAY = 86_400.0
FIRST = Attempt(outcome=F, seconds=1.0, message="assert 1 == 2", text="E   assert 1 == 2")
PULL = PullRequest(number=7, head_sha=HEAD, head_repository="o/r", base_ref="main", base_sha=BASE)
EVENT = Event(name="pull_request", sha=HEAD, base_sha=BASE, pull_request=PULL)


def a_test(
    name: str = "a", outcome: TestOutcome = F, message: str | None = "assert 1 == 2", **more: object
) -> TestResult:
    bad = {"file": "src/x.py", "line": 3, "message": message} if outcome.bad else {}
    return TestResult(node_id=f"t.py::{name}", outcome=outcome, **{**bad, **more})  # type: ignore[arg-type]


def a_tier(*tests: TestResult, name: str = "unit", verdict: Verdict = Verdict.FAILED, **more: object) -> TierVerdict:
    plan_keys = {key: more.pop(key) for key in ("markers", "args", "paths") if key in more}
    result = TierResult(name=name, ending=Ending.EXITED, tests=tests, has_report=True, **more)  # type: ignore[arg-type]
    plan = TierPlan(name=name, run=True, reason="runs", **plan_keys)  # type: ignore[arg-type]
    return TierVerdict(plan=plan, result=result, verdict=verdict, exit_code=ExitCode.FAILED)


def a_run(*tiers: TierVerdict, event: Event = EVENT) -> RunVerdict:
    plan = Plan(
        config_path="ml-tiers.yml",
        config_id="c",
        event=event,
        changes=Changes(files=(), source="git"),
        tiers=tuple(tier.plan for tier in tiers),
    )
    return RunVerdict(plan=plan, verdict=Verdict.FAILED, exit_code=ExitCode.FAILED, tiers=tiers)


def a_record(*tests: TestResult, sha: str = BASE, day: int = 10, trusted: bool = True, **more: object) -> Record:
    tier = {key: more.pop(key) for key in ("verdict", "random_seed", "order", "name") if key in more}
    return Record(
        sha=sha,
        time=day * DAY,
        config_id="c",
        event="push",
        tier=a_tier(*tests, **tier),  # type: ignore[arg-type]
        trusted=trusted,
        **more,  # type: ignore[arg-type]
    )


def known(*records: Record, head: tuple[Record, ...] = ()) -> History:
    return History(tiers={"unit": tuple(sorted(records, key=lambda r: -r.time))}, head=head)


def causes(*tests: TestResult, history: History | None = None, **more: object) -> Insight:
    return insight(a_run(a_tier(*tests, **more)), history or History())  # type: ignore[arg-type]


# --- one cause, one entry ------------------------------------------------------------------------------------------

SAME = {
    "an assertion with other values": (a_test("a", message="assert 0.41 < 0.4"), a_test("b", message="assert 9 < 0.4")),
    "an assertion with other texts": (
        a_test("a", message="AssertionError: on 'x'"),
        a_test("b", message="AssertionError: far from anything"),
    ),
    "another address": (
        a_test("a", message="ValueError: bad <object at 0x7f12>"),
        a_test("b", message="ValueError: bad <object at 0x7f99aa>"),
    ),
    "another temporary folder": (
        a_test("a", message="FileNotFoundError: [Errno 2] No such file: '/tmp/x-1/a.pt'"),
        a_test("b", message="FileNotFoundError: [Errno 2] No such file: '/tmp/y-22/b.pt'"),
    ),
    "another shape": (
        a_test("a", message="RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x8 and 16x3)"),
        a_test("b", message="RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x8 and 16x3)"),
    ),
    "no frame of the project, the same words": (
        a_test("a", E, message="fixture 'db' not found", file=None, line=None),
        a_test("b", E, message="fixture 'db' not found", file=None, line=None),
    ),
}
OTHER = {
    "another line": (a_test("a"), a_test("b", line=4)),
    "another file": (a_test("a"), a_test("b", file="src/y.py")),
    "another exception": (a_test("a", message="ValueError: x"), a_test("b", message="TypeError: x")),
    "other words of one line": (
        a_test("a", message="RuntimeError: connection refused"),
        a_test("b", message="RuntimeError: unknown model"),
    ),
    "both were running": (a_test("a", U, message=None), a_test("b", U, message=None)),
    "nothing is known of either": (
        a_test("a", message=None, file=None, line=None),
        a_test("b", message=None, file=None, line=None),
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_one_cause(case: str) -> None:
    (cause,) = causes(*SAME[case]).causes

    assert [test.node_id for test in cause.tests] == ["t.py::a", "t.py::b"]


@pytest.mark.parametrize("case", OTHER)
def test_two_causes(case: str) -> None:
    assert [len(cause.tests) for cause in causes(*OTHER[case]).causes] == [1, 1]


def test_a_test_that_fails_in_two_tiers_is_one() -> None:
    gpu = a_tier(a_test("a", line=99), name="gpu")
    found = insight(a_run(a_tier(a_test("a")), gpu))

    (cause,) = found.causes
    assert (len(cause.tests), cause.tiers) == (1, ("unit", "gpu"))


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from([F, E, U, P, S]),
            st.none() | st.text(max_size=30),
            st.integers(1, 3),
        ),
        max_size=30,
    ),
    st.sampled_from(["unit", "gpu"]),
)
def test_every_failing_test_is_in_a_cause_and_no_other_test_is(tests, tier) -> None:
    made = [a_test(f"{n}{name}", o, message=m, line=line, text=m) for n, (name, o, m, line) in enumerate(tests)]
    found = insight(a_run(a_tier(*made, name=tier)))

    grouped = [test.node_id for cause in found.causes for test in cause.tests]
    assert sorted(grouped) == sorted(test.node_id for test in made if test.outcome.bad)
    assert all(cause.excerpt.count("\n") < LINES for cause in found.causes)


@settings(max_examples=100)
@given(st.randoms(use_true_random=False))
def test_the_order_in_which_tests_ended_changes_nothing(random) -> None:
    tests = [a_test(f"{n}", message=f"E{n % 4}: x", line=n % 3, text=f"E   E{n % 4}: x {n}") for n in range(12)]
    tests += [a_test(f"flaky{n}", P, attempts=(FIRST,), text=str(n)) for n in range(3)]
    shuffled = random.sample(tests, len(tests))

    assert causes(*shuffled) == causes(*tests)


# --- is it mine? ---------------------------------------------------------------------------------------------------

GOOD, BAD = a_test(outcome=P), a_test()
STANDINGS: dict[str, tuple[tuple[Record, ...], Standing, str]] = {
    "nothing is known": ((), Standing.UNKNOWN, "no earlier run is known"),
    "it passed at the base": ((a_record(GOOD),), Standing.NEW, "not so at bbbbbbbbbb of 1970-01-11"),
    "it failed at the base": ((a_record(BAD),), Standing.BEFORE, "first seen at bbbbbbbbbb"),
    "it is a new test": ((a_record(a_test("other", P)),), Standing.NEW, "first seen here"),
    "the base was stopped before it": (
        (a_record(a_test("other", P), verdict=Verdict.OVER_BUDGET),),
        Standing.UNKNOWN,
        "no earlier run is known",
    ),
    "skipped at the base, failing before it": (
        (a_record(a_test(outcome=S)), a_record(BAD, sha=OLD, day=9)),
        Standing.BEFORE,
        "compared with cccccccccc of 1970-01-10: no run of the base bbbbbbbbbb is known",
    ),
    "the base never ran, main failed": (
        (a_record(BAD, sha=OLD, day=9),),
        Standing.BEFORE,
        "no run of the base bbbbbbbbbb is known",
    ),
    "the base's own run counts, not a newer one of main": (
        (a_record(GOOD, day=8), a_record(BAD, sha=OLD, day=12)),
        Standing.NEW,
        "not so at bbbbbbbbbb",
    ),
    "failing for three days": (
        (a_record(BAD), a_record(BAD, sha=OLD, day=9), a_record(GOOD, sha=OLDER, day=8)),
        Standing.BEFORE,
        "first seen at cccccccccc of 1970-01-10",
    ),
    "new with an earlier commit of this pull request": (
        (a_record(BAD, sha=OLD, day=12, trusted=False, pull_request=7), a_record(GOOD)),
        Standing.NEW,
        "first seen at cccccccccc of 1970-01-13",
    ),
    "another pull request has it too, which says nothing": (
        (a_record(BAD, sha=OLD, day=12, trusted=False, pull_request=8), a_record(GOOD)),
        Standing.NEW,
        "first seen here",
    ),
    "this commit's own earlier run is no base": (
        (a_record(BAD, sha=HEAD, day=12),),
        Standing.UNKNOWN,
        "no earlier run is known",
    ),
}


@pytest.mark.parametrize("case", STANDINGS)
def test_is_it_mine(case: str) -> None:
    records, standing, remark = STANDINGS[case]
    (cause,) = causes(a_test(), history=known(*records)).causes

    assert cause.standing is standing
    assert remark in "; ".join(cause.remarks)


def test_a_cause_with_a_new_test_is_new_and_says_how_many_are() -> None:
    history = known(a_record(a_test("a"), a_test("b", P)))
    (cause,) = causes(a_test("a"), a_test("b"), history=history).causes

    assert cause.standing is Standing.NEW
    assert cause.remarks[0] == "of 2 tests 1 new, 1 failing before"


def test_new_ones_come_first_then_the_larger() -> None:
    history = known(a_record(a_test("old1", line=1), a_test("old2", line=1), a_test("new", P)))
    tests = [a_test("old1", line=1), a_test("old2", line=1), a_test("new", line=2)]
    found = causes(*tests, history=history).causes

    assert [(cause.standing, len(cause.tests)) for cause in found] == [(Standing.NEW, 1), (Standing.BEFORE, 2)]


def test_what_it_depends_on() -> None:
    passed_here = a_record(GOOD, sha=HEAD, random_seed=7)
    history = known(a_record(GOOD), head=(passed_here,))
    (cause,) = causes(
        a_test(text="failed under seed 3; repeats"), history=history, random_seed=9, paths=("tests/unit",)
    ).causes

    assert "it passed at this commit under seed 7: it depends on the seed or the order of the tests" in cause.remarks
    assert (
        "if it passes alone under seed 9, it is the order: python -m pytest --randomly-seed=9 tests/unit"
        in cause.remarks
    )
    assert "pytest-randomly's seed was 9" in cause.remarks
    assert "failed under seed 3 of its own, the same in every attempt" in cause.remarks
    assert cause.rerun == "python -m pytest --randomly-seed=9 t.py::a"


def test_a_test_that_passed_at_this_commit_in_another_order_is_named_as_such() -> None:
    passed_here = a_record(GOOD, sha=HEAD, order="longest first")
    (cause,) = causes(a_test(), history=known(head=(passed_here,))).causes

    assert "order-dependent, or flaky: it passed at this commit in order: longest first" in cause.remarks


def test_a_rerun_of_one_commit_that_passed_is_told() -> None:
    (cause,) = causes(a_test(), history=known(head=(a_record(GOOD, sha=HEAD),))).causes

    assert "it passed in another run of this commit" in cause.remarks


@pytest.mark.parametrize("name", ["a b", "x['q']", "$HOME", "a;rm -rf", "ü", "--x"])
def test_the_command_is_exact(name: str) -> None:
    tests = (a_test(f"t[{name}]"), a_test("u"))
    (cause,) = causes(*tests, markers="gpu and not slow", args=("--device", "cuda:0")).causes

    words = shlex.split(cause.rerun)
    assert words[:7] == ["python", "-m", "pytest", "-m", "gpu and not slow", "--device", "cuda:0"]
    assert words[7:] == [f"t.py::t[{name}]", "t.py::u"]


@pytest.mark.parametrize(
    ("node_id", "known_as"),
    [
        ("t.py::test_it@group", "t.py::test_it"),
        ("t.py::test_it[a@b]@gr oup", "t.py::test_it[a@b]"),
        ("t.py::test_it[a@b]", "t.py::test_it[a@b]"),
        ("a@b/t.py::test_it", "a@b/t.py::test_it"),
        ("a@b.py", "a@b.py"),
    ],
)
def test_a_group_of_xdists_is_no_part_of_a_tests_name(node_id: str, known_as: str) -> None:
    (cause,) = causes(replace(a_test(), node_id=node_id)).causes
    assert shlex.split(cause.rerun)[-1] == known_as


@pytest.mark.parametrize("name", ["a\nb", "tab\t", "it's\\n\x7f", "\x1b[31m"])
def test_a_command_with_control_characters_survives_being_copied(name: str) -> None:
    (cause,) = causes(a_test(f"t[{name}]")).causes
    said = cause.rerun.removeprefix("python -m pytest ")
    echoed = subprocess.run(["bash", "-c", f"printf %s {said}"], capture_output=True, check=True)

    assert cause.rerun.isprintable()
    assert echoed.stdout.decode() == f"t.py::t[{name}]"


def test_a_run_outside_git_is_told_by_its_day() -> None:
    outside = a_run(a_tier(a_test()), event=Event(name="local", sha=None, base_sha=None))
    (cause,) = insight(outside, known(a_record(GOOD, sha=NO_COMMIT))).causes

    assert "not so at the run of 1970-01-11" in cause.remarks


@pytest.mark.parametrize("name", ["pytest::internal", "gw0"])
def test_an_error_of_pytests_own_is_met_again_by_the_whole_tier(name: str) -> None:
    (cause,) = causes(
        replace(a_test(outcome=TestOutcome.ERROR), node_id=name), markers="not slow", paths=("tests/unit", "a b")
    ).causes

    assert cause.rerun == "python -m pytest -m 'not slow' tests/unit 'a b'"


def test_a_command_for_many_names_one() -> None:
    (cause,) = causes(*(a_test(str(n)) for n in range(40))).causes

    assert cause.rerun == "python -m pytest t.py::0"


LAST_WORDS = {
    "nothing": ("", None),
    "the last line": (
        "collecting\nE   ZeroDivisionError: division by zero\n\n",
        "E   ZeroDivisionError: division by zero",
    ),
    "of a command line": (
        "ERROR: usage: python -m pytest [options]\npython -m pytest: error: unrecognized arguments: --x\n"
        "  inifile: None\n  rootdir: /a\n",
        "python -m pytest: error: unrecognized arguments: --x",
    ),
    "an error long before the end": ("main.py: error: no\nrootdir: /a\ntest_a.py .\n", "test_a.py ."),
    "of Python": (
        'test_a.py Fatal Python error: Aborted\n\nThread 0x1 (recent first):\n  File "c.py", line 9 in run\n\n'
        'Current thread 0x2 (most recent call first):\n  File "test_a.py", line 2 in test_e\n  File "p.py"\n',
        'Fatal Python error: Aborted, File "test_a.py", line 2 in test_e',
    ),
    "of Python, cut": ("Fatal Python error: Aborted\nCurrent thread 0x2", "Fatal Python error: Aborted"),
}


@pytest.mark.parametrize("case", LAST_WORDS)
def test_last_words(case: str) -> None:
    output, said = LAST_WORDS[case]
    assert last_words(output) == said


# --- flaky ---------------------------------------------------------------------------------------------------------

FLAKY = a_test(outcome=P, attempts=(FIRST,))


def test_the_rate_is_of_the_runs_that_had_the_test() -> None:
    records = [a_record(FLAKY if n in (3, 5) else GOOD, sha=f"{n:040x}", day=n) for n in range(39)]
    records.append(a_record(a_test(outcome=S), sha=OLD, day=50))
    (flake,) = causes(FLAKY, history=known(*records)).flakes

    assert flake.remarks == ("passed in attempt 2", "flaky in 3 of the last 40 runs")
    assert flake.excerpt == "E   assert 1 == 2"


def test_a_failing_test_that_is_known_to_be_flaky_says_so() -> None:
    records = [a_record(FLAKY if n < 2 else GOOD, sha=f"{n:040x}", day=n) for n in range(10)]
    (cause,) = causes(a_test(), history=known(*records)).causes

    assert "it was flaky in 2 of its last 10 runs" in cause.remarks


def test_a_retry_under_the_same_seed_excludes_the_seed() -> None:
    (flake,) = causes(FLAKY, random_seed=5).flakes

    assert "seed 5: it depends on the order of the tests, on time" in flake.remarks[-1]


def test_a_failure_with_attempts_is_no_flake() -> None:
    found = causes(structs.replace(FLAKY, outcome=F, message="again"))

    assert found.flakes == ()
    assert "failed in each of 2 attempts" in found.causes[0].remarks


# --- slow ----------------------------------------------------------------------------------------------------------


def runs_of(*seconds: float, others: tuple[float, ...] = ()) -> History:
    return known(
        *(
            a_record(
                a_test("a", P, seconds=s),
                *(a_test(f"o{n}", P, seconds=o) for n, o in enumerate(others)),
                sha=f"{day:040x}",
                day=day,
                verdict=Verdict.PASSED,
            )
            for day, s in enumerate(seconds)
        )
    )


@pytest.mark.parametrize(
    ("before", "now", "slower"),
    [
        ((1.0, 1.1, 0.9), 3.0, True),
        ((1.0, 1.1, 0.9), 1.9, False),  # less than twice as long
        ((1.0, 1.1, 2.5), 3.0, False),  # it has taken as long
        ((0.1, 0.1, 0.1), 0.5, False),  # nobody waits for it
        ((1.0, 1.0), 9.0, False),  # too few runs to tell
        ((), 9.0, False),
    ],
)
def test_slower_than_before(before: tuple[float, ...], now: float, slower: bool) -> None:
    found = causes(a_test("a", P, seconds=now), history=runs_of(*before))

    assert [one.node_id for one in found.slower] == (["t.py::a"] if slower else [])


def test_a_slow_machine_is_not_a_slow_test() -> None:
    others = (1.0,) * 8
    history = runs_of(1.0, 1.0, 1.0, others=others)
    tests = [a_test(f"o{n}", P, seconds=3.0) for n in range(8)]

    assert causes(a_test("a", P, seconds=3.0), *tests, history=history).slower == ()
    assert [s.node_id for s in causes(a_test("a", P, seconds=9.0), *tests, history=history).slower] == ["t.py::a"]


def test_the_slowest_are_few_and_sorted() -> None:
    found = causes(*(a_test(str(n), P, seconds=float(n)) for n in range(30))).slowest

    assert [test.seconds for _, test in found] == [float(n) for n in range(29, 19, -1)]


def test_explaining_changes_nothing_else() -> None:
    run = a_run(a_tier(a_test()))

    assert replace(explain(run), insight=None) == run


# --- excerpts ------------------------------------------------------------------------------------------------------

LONG = """\
    def test_assert():
        x = 1
>       assert loss() < 0.4, "too much"
E       AssertionError: too much
E       assert 0.41 < 0.4
E        +  where 0.41 = loss()

tests/test_x.py:7: AssertionError"""
LIBRARY = """\
    def test_lib(): train()

tests/test_x.py:9:
_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

    def train():
        x = ones(2, 3)
>       return linear(x)

src/model.py:14:
_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _

    def linear(x):
>       return x @ w
               ^^^^^
E       RuntimeError: shapes

/lib/python3/site-packages/torch/functional.py:99: RuntimeError"""
SHORT = """\
tests/test_x.py:3: in test_a
    train()
src/model.py:14: in train
    assert x == 3
E   assert 1 == 3"""
BOTH = LONG + "\n\n" + LONG.replace("too much", "in the teardown").replace(":7:", ":20:")
EXCERPTS = {
    "long": (
        (LONG, "AssertionError: too much", "tests/test_x.py", 7),
        'tests/test_x.py:7\n>   assert loss() < 0.4, "too much"\nE       AssertionError: too much\n'
        "E       assert 0.41 < 0.4\nE        +  where 0.41 = loss()",
    ),
    "raised in a library": (
        (LIBRARY, "RuntimeError: shapes", "src/model.py", 14),
        "src/model.py:14\n>   return linear(x)\n/lib/python3/site-packages/torch/functional.py:99\n>   return x @ w\n"
        "E       RuntimeError: shapes",
    ),
    "short": (
        (SHORT, "assert 1 == 3", "src/model.py", 14),
        "src/model.py:14\n>   assert x == 3\nE   assert 1 == 3",
    ),
    "a call, then a teardown": (
        (BOTH, "AssertionError: too much", "tests/test_x.py", 7),
        'tests/test_x.py:7\n>   assert loss() < 0.4, "too much"\nE       AssertionError: too much\n'
        "E       assert 0.41 < 0.4\nE        +  where 0.41 = loss()",
    ),
    "no traceback": ((None, "Failed: said so", None, None), "Failed: said so"),
    "a crash": (("worker 'gw0' crashed", "worker 'gw0' crashed", None, None), "worker 'gw0' crashed"),
}


@pytest.mark.parametrize("case", EXCERPTS)
def test_the_lines_that_say_most(case: str) -> None:
    (text, message, file, line), wanted = EXCERPTS[case]

    assert excerpt(text, message, file=file, line=line) == wanted


def test_a_long_explanation_is_cut() -> None:
    text = ">   assert a == b\n" + "\n".join(f"E   line {n}" for n in range(300)) + "\n\nt.py:3: AssertionError"
    lines = excerpt(text, "line 0", file="t.py", line=3).split("\n")

    assert len(lines) == LINES
    assert lines[-1] == "E   …"


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("E> :_\n^ab3./"), max_size=300) | st.text(), st.none() | st.text(max_size=40))
def test_any_text_has_an_excerpt(text: str, message: str | None) -> None:
    assert len(excerpt(text, message).split("\n")) <= LINES


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("ValueError: x", "ValueError"),
        ("json.decoder.JSONDecodeError: Expecting value", "JSONDecodeError"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("Failed: DID NOT RAISE", "Failed"),
        ("fixture 'x' not found", None),
        ("worker 'gw0' crashed", None),
        ("", None),
        (None, None),
    ],
)
def test_the_kind_of_a_failure(message: str | None, kind: str | None) -> None:
    assert kind_of(message) == kind


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("bad <X at 0x7f1a>", "bad <X at ADDRESS>"),
        ("took 1.25e-3 s, 4 times", "took N s, N times"),
        ("run 6f1c2d3e-0000-4000-8000-00000000abcd", "run ID"),
        ("commit 1a2b3c4d5e", "commit ID"),
        ("open '/tmp/pytest-7/a.txt'", "open TEXT"),
        ("no /var/lib/x/y.bin", "no PATH"),
        ("defaced", "defaced"),  # a word of hexadecimal letters is a word
    ],
)
def test_what_differs_from_run_to_run_is_taken_out(message: str, wanted: str) -> None:
    assert skeleton(message) == wanted


def test_flaky_tests_are_counted_as_what_they_are() -> None:
    result = a_tier(a_test("a", P), FLAKY, a_test("c", S)).result

    assert result is not None
    assert counts(result.counts, flaky=result.flaky) == "2 passed (1 flaky), 1 skipped"
