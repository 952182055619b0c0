"""The data of a run, by its spec."""

from datasets import Dataset, load
from hybrid.specs import RunSpec


def load_data(spec: RunSpec) -> Dataset:
    """Four disjoint splits: train fits, validation chooses, calibration sets the threshold, test confirms."""
    wanted = spec.data
    return load(
        wanted.name,
        seed=spec.seed,
        calibration_fraction=wanted.calibration_fraction,
        validation_fraction=wanted.validation_fraction,
        image_size=wanted.image_size,
        limit=wanted.limit,
    )
