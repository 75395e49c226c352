"""What can happen and what may not: pure functions and frozen values, without I/O and without a clock."""
