"""What can happen and what may not: pure functions and frozen values, with no I/O and no clock."""
