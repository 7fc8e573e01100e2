"""Twelve small pieces of work of the two kinds that ML code is made of: tensor operations and plain Python."""
