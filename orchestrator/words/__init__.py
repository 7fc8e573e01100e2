"""What everything is said in: frozen values, enums, exit codes, the environment as it was read once.

Keyword-only and free of behaviour beyond derived properties, so that every other module can be tested with plain
values. Durations are seconds (float); times are Unix seconds (float); paths inside the repository are POSIX strings
relative to the folder of ``ml-tiers.yml``.
"""
