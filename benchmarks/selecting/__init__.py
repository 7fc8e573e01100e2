"""What `benchmarks/selection.py` is made of: real faults, really run, and the policies that look for them."""
