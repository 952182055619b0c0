"""Search for the edge architecture: what fits a device, and which of it learns best."""
