"""The one error of this package: a data set that cannot be used, and why."""


class DatasetError(ValueError):
    """A data set is missing, corrupt or unusable; one line that says what, and what was expected."""
