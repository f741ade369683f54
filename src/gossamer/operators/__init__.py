"""Structured operators that appear as one node of a Program."""
