"""Recommenders and the contract they share."""
