"""What benchmarks/checks.py is made of: other libraries on the same zoo, and the table."""
