"""A whole federation on one machine: the same apps, other carriers."""
