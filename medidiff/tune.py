"""The strength of every classical method, found by one search on the tune split."""
