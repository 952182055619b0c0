"""Labelled data by name or path; nothing is read or downloaded on import."""

from datasets.dataset import Dataset, Split
from datasets.errors import DatasetError
from datasets.load import load

__all__ = ["Dataset", "DatasetError", "Split", "load"]
