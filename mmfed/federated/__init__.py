"""Rounds: what the coordinator and the participants say to each other, and what becomes of it."""
