"""Synthetic chest CT slices with and without a carcinoma: sample data without patients."""

from ct_phantom.dataset import make_patient, patient_classes, render_slice, write_phantom
from ct_phantom.options import PhantomOptions, parse_phantom

__all__ = [
    "PhantomOptions",
    "make_patient",
    "parse_phantom",
    "patient_classes",
    "render_slice",
    "write_phantom",
]
