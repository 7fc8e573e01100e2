"""What the hands work with: a process tree with a deadline, the user's Python, git, REST, the stores of the history."""
