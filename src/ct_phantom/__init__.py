"""Synthetic chest CT slices with and without an adenocarcinoma: sample data without patients."""

from ct_phantom.dataset import lesion_patients, make_patient, render_slice, write_phantom
from ct_phantom.options import PhantomOptions, parse_phantom

__all__ = [
    "PhantomOptions",
    "lesion_patients",
    "make_patient",
    "parse_phantom",
    "render_slice",
    "write_phantom",
]
