"""Benchmarks of the cohort engine: ``python -m simulations.benchmarks``."""
