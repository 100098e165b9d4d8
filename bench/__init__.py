"""Benchmarks: each compares with a named baseline in one run and prints ratios."""
