"""Statistics over patients: intervals, tests, agreement."""
