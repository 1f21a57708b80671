"""Train, assess and serve image classifiers: chest CT slices to start with, any folder of classes after that."""

__version__ = "0.1.0"
