"""The eight steps of a run, and the other lines that begin or end like it."""
