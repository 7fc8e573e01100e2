"""mltiers: the CI side of ml-test-action. See docs/architecture.md for the layers and the line."""

__version__ = "0.1.0"
