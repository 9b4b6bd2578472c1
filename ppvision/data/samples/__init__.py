"""Data of our own: fetched from package registries, or drawn."""
