"""Quantised models in, a folder that a firmware engineer compiles out."""
