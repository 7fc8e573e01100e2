"""Effects: what reads the situation, runs tiers here and elsewhere, reads and writes files, comments."""
