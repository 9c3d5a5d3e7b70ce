"""Centralised baselines every table is compared with."""
