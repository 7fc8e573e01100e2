"""The study of the benchmark gate: twelve small benchmarks, their recording, and what each rule makes of it."""
