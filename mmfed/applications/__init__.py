"""What a shop does with item scores beside a list of items.

Scores and choices are NumPy only: they run on a device that only recommends. Polars reads the file of campaigns.
"""
