"""Synthetic colour images of any number of classes: sample data about nothing in particular."""

from image_patterns.dataset import write_patterns
from image_patterns.options import PatternOptions, parse_patterns

__all__ = ["PatternOptions", "parse_patterns", "write_patterns"]
