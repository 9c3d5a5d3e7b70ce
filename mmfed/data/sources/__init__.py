"""One file per format a shop can come in."""
