"""Verdicts as text for people: comment, summary, annotations, terminal, HTML. Pure."""
