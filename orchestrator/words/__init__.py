"""What everything is said in: frozen values, enums, exit codes, the environment as it was read once."""
