"""What to test first in a repository without tests, and why, naming its own code. Pure."""

from __future__ import annotations

from textwrap import wrap

from orchestrator.hands.initialise.facts import Finding, RepositoryFacts

_MOST = 6  # named per step; the rest is counted

_STEPS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        "Preprocessing",
        ("data",),
        "A wrong scale, a shifted label or a lossy tokenizer does not crash: it trains a worse model, and nobody knows "
        "why.",
        "normalized columns have mean 0 and deviation 1, and a constant column gives no NaN; encode then decode gives "
        "the text back; the same seed augments the same way; an empty and an overlong input do what you decided",
    ),
    (
        "Shapes and gradients",
        ("model", "loss"),
        "Broadcasting hides wrong shapes, and a parameter without a gradient stays random for ever. Both show in one "
        "forward and one backward pass of a tiny model: milliseconds, on the CPU.",
        "the output has the right shape for batches of one and of several; every parameter receives a finite gradient; "
        "in eval mode two passes agree and samples of a batch do not influence each other; a loss has its known value "
        "on a perfect prediction and grows with the error",
    ),
    (
        "The overfit test",
        ("training",),
        "It exercises data, model, loss and optimizer together: if eight samples cannot be learned by heart, nothing "
        "can be learned. It takes seconds and finds what the others miss.",
        "with a fixed seed, the smallest model trained on eight samples reaches a loss near 0",
    ),
    (
        "Then inference",
        ("inference",),
        "What is served is often not what was trained: another tokenizer, another mode, another file.",
        "a saved and loaded model predicts the same; a batch and its items one by one agree; bad input raises what you "
        "say",
    ),
)


def advise(facts: RepositoryFacts) -> str:
    """The text that `mltiers init` prints where there is nothing to run yet."""
    patterns = " or ".join(facts.settings.python_files)
    where = f" in {', '.join(facts.settings.testpaths)}" if facts.settings.testpaths else ""
    lines = [f"There are no tests here yet (no test functions in {patterns}{where}). What to test first, and why:"]
    for number, (title, kinds, why, what) in enumerate(_STEPS, 1):
        found = [finding for finding in facts.findings if finding.kind in kinds]
        if not found and number > 3:
            continue
        lines += ["", f"{number}. {title}", *_wrapped(why), *_wrapped(f"Assert that {what}."), *_named(found)]
    lines += ["", "Put them into tests/unit (the overfit test into tests/integration) and run `mltiers init` again:"]
    lines += ["it then writes ml-tiers.yml and a workflow for what it finds."]
    lines += [f"note: {note}" for note in facts.notes]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return wrap(text, width=100, initial_indent="   ", subsequent_indent="   ")


def _named(found: list[Finding]) -> list[str]:
    if not found:
        return ["   (nothing of the kind was recognized here by its name or base class)"]
    lines = [f"     {finding.path}:{finding.line}  {finding.name}" for finding in found[:_MOST]]
    more = len(found) - _MOST
    return ["   Here that is", *lines, *([f"     and {more} more"] if more > 0 else [])]
