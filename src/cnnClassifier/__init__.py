"""Train, evaluate and serve image classifiers: chest CT slices, or any folder of classes."""

__version__ = "0.1.0"
