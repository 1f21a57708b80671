"""DICOM files for the tests, written by pydicom."""

import io
import struct

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

NAME = "Zzyzx^Quentin"  # a patient's: must show nowhere


def dicom(pixels, syntax=ExplicitVRLittleEndian, compressed=None, frame=None, **elements):
    """Return a CT file's bytes.

    Args:
        pixels: int array, (rows, columns), or (frames, rows, columns) with NumberOfFrames.
        syntax: UID of the transfer syntax it is written in.
        compressed: what the pixels are compressed to.
        frame: bytes that stand for the compressed pixels.
        elements: by keyword; None leaves one out.
    """
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    values = {
        "PatientName": NAME,
        "PatientID": NAME,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for name, value in (values | elements).items():
        if value is not None:
            setattr(data, name, value)
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OW" if pixels.dtype.itemsize == 2 else "OB"
    if compressed:
        data.compress(compressed)
    if frame is not None:
        data.PixelData = encapsulate([frame])
        data["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def before_rows(data, inserted):
    """Put raw elements before Rows, wherever that is right."""
    place = data.index(b"\x28\x00\x10\x00US")
    return data[:place] + inserted + data[place:]


def element(group, number, vr, value, length=None):
    """Return a raw element in Explicit VR Little Endian with a long length field."""
    return (
        struct.pack("<HH2sHI", group, number, vr, 0, len(value) if length is None else length)
        + value
    )


ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def lungs(seed=0, side=64, dtype=np.uint16):
    """Return stored values (HU + 1024) of air with something denser in it, (side, side)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(100, 1300, (8, 8)).repeat(side // 8, 0).repeat(side // 8, 1)
    return (coarse + rng.integers(0, 40, coarse.shape)).astype(dtype)
