"""How much work each function does. The study raises EXTRA in one of two trees: that is its injected slowdown."""

EXTRA = 0.0
STEPS = range(round(20 * (1 + EXTRA)))
