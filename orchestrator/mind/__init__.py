"""Decisions: values in, values out. Nothing in here imports `os`, starts a process, opens a file or a socket."""
