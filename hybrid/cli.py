"""The `hybrid` command: the only place that prints."""
