"""Train, evaluate and serve image classifiers: any folder of classes."""

__version__ = "0.2.0"
