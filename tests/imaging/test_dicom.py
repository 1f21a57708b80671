import io
import json
import logging
import re
import struct
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import (
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from cnnClassifier.entity.dicom_options import DicomInfo, DicomOptions
from cnnClassifier.imaging.decode import decode
from cnnClassifier.imaging.dicom_header import read_patient_pseudonym
from cnnClassifier.utils.errors import ImageError
from tests.dicoms import EMPTY_ITEM, ITEM, before_rows, dicom, element, lungs

MAX_PIXELS = 5_000_000
STORED = lungs()
UNDEFINED = 0xFFFFFFFF


def shipped(name):
    with open(get_testdata_file(name, download=False), "rb") as file:
        return file.read()


def windowed(values, centre, width):
    levels = ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
    return levels.round().astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "info"),
    [
        ("CT_small.dcm", ("lung", -600, 1500)),
        ("693_J2KI.dcm", ("file", 40, 100)),
        ("J2K_pixelrep_mismatch.dcm", ("file", 40, 100)),
        ("MR_small.dcm", ("file", 600, 1600)),
        ("MR_small_RLE.dcm", ("file", 600, 1600)),
        ("MR_small_bigendian.dcm", ("file", 600, 1600)),
        ("MR_small_implicit.dcm", ("file", 600, 1600)),
        ("MR_small_jp2klossless.dcm", ("file", 600, 1600)),
        ("examples_overlay.dcm", ("file", 450, 790)),
        ("JPEG2000.dcm", ("full", 108, 276)),
    ],
)
def test_grey_is_what_pydicom_makes_of_it(name, info):
    image = decode(shipped(name), MAX_PIXELS)
    data = pydicom.dcmread(io.BytesIO(shipped(name)))
    assert (image.dicom.window, image.dicom.centre, image.dicom.width) == info
    assert (image.format, image.mode, image.frames) == ("DICOM", data.PhotometricInterpretation, 1)
    values = apply_modality_lut(pixel_array(data), data).astype(np.int32)
    expected = windowed(values, *info[1:])
    assert np.abs(image.pixels - expected[..., np.newaxis].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("SC_rgb_rle_2frame.dcm", 2),
        ("SC_rgb_rle_16bit_2frame.dcm", 2),
        ("SC_rgb_small_odd_big_endian.dcm", 1),
        ("SC_rgb_dcmtk_+eb+cy+n1.dcm", 1),
        ("SC_ybr_full_422_uncompressed.dcm", 1),
        ("SC_rgb_jpeg_dcmtk.dcm", 1),
        ("examples_jpeg2k.dcm", 1),
        ("examples_ybr_color.dcm", 30),
        ("ExplVR_BigEnd.dcm", 1),
    ],
)
def test_colour_is_what_pydicom_makes_of_it(name, frame):
    image = decode(shipped(name), MAX_PIXELS, DicomOptions(frame=frame))
    expected = pixel_array(io.BytesIO(shipped(name)), index=frame - 1)
    assert np.array_equal(image.pixels, expected if expected.dtype == np.uint8 else expected >> 8)
    assert (image.dicom.window, image.dicom.centre, image.dicom.frame) == ("colour", None, frame)
    assert image.dicom.frames == image.frames >= frame


@pytest.mark.parametrize(
    ("window", "elements", "info"),
    [
        ("auto", {"WindowCenter": [50, -500], "WindowWidth": [350, 1400]}, ("file", 50, 350)),
        ("auto", {}, ("lung", -600, 1500)),
        ("auto", {"WindowCenter": 50, "WindowWidth": 0}, ("lung", -600, 1500)),
        ("lung", {"WindowCenter": 50, "WindowWidth": 350}, ("lung", -600, 1500)),
        ("mediastinal", {}, ("mediastinal", 40, 400)),
        ("bone", {}, ("bone", 400, 1800)),
        ((-100.5, 77.0), {}, ("custom", -100.5, 77)),
    ],
)
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_window_turns_hu_into_grey(window, elements, info, syntax):
    pixels = STORED.astype(">u2") if syntax == ExplicitVRBigEndian else STORED
    image = decode(dicom(pixels, syntax, **elements), MAX_PIXELS, DicomOptions(window))
    assert image.dicom == DicomInfo(*info, 1, 1)
    assert np.array_equal(
        image.pixels, windowed(STORED - 1024.0, *info[1:])[..., np.newaxis].repeat(3, 2)
    )


LUNG = windowed(STORED - 1024.0, -600, 1500)
PADDED = np.where(np.arange(64) < 9, 5, STORED).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (dicom((STORED.astype(np.int16) - 1024), RescaleIntercept=0), LUNG),
        (dicom(STORED // 2, RescaleSlope=2), windowed(STORED // 2 * 2 - 1024.0, -600, 1500)),
        (dicom(STORED, PhotometricInterpretation="MONOCHROME1"), 255 - LUNG),
        (dicom(STORED | 0x8000, BitsStored=12, HighBit=11), LUNG),  # an overlay in the unused bits
        (dicom(STORED << 4, BitsStored=12, HighBit=15), LUNG),
        (
            dicom(
                (STORED.astype(np.int16) - 1024) & 0x0FFF,
                BitsStored=12,
                HighBit=11,
                RescaleIntercept=0,
            ),
            LUNG,
        ),
        (dicom(PADDED, PixelPaddingValue=5), np.where(np.arange(64) < 9, 0, LUNG)),
        (
            dicom(
                PADDED,
                PixelPaddingValue=0,
                PixelPaddingRangeLimit=9,
                PhotometricInterpretation="MONOCHROME1",
            ),
            np.where(np.arange(64) < 9, 0, 255 - LUNG),
        ),
        (dicom(STORED, compressed=RLELossless), LUNG),
        (dicom(STORED)[132:], LUNG),  # no preamble
        (
            dicom(STORED)[dicom(STORED).index(b"\x08\x00\x16\x00UI") :],
            LUNG,
        ),  # nor file meta information
        (b"II*\0" + dicom(STORED)[4:], LUNG),  # a TIFF's beginning in the preamble
        (dicom(PADDED, RescaleSlope=None, RescaleIntercept=None, PixelPaddingValue=5), None),
        (
            dicom((PADDED // 8).astype(np.uint8), RescaleIntercept=0, PixelPaddingValue=0),
            None,
        ),  # 8 bits hold no HU
    ],
)
def test_stored_values_are_understood(data, expected):
    image = decode(data, MAX_PIXELS)
    assert image.dicom.window == ("lung" if expected is not None else "full")
    if expected is None:
        assert (image.pixels[:, :9].max(), image.pixels[:, 9:].min(), image.pixels.max()) == (
            0,
            0,
            255,
        )
    else:
        assert np.array_equal(image.pixels[..., 0], expected)


def dataset(**elements):
    data = pydicom.Dataset()
    for keyword, value in elements.items():
        setattr(data, keyword, value)
    return data


def enhanced(count):
    hu = dataset(RescaleSlope=1, RescaleIntercept=-1000)
    windows = [dataset(WindowCenter=10 * number, WindowWidth=100) for number in range(count)]
    return {
        "RescaleSlope": None,
        "RescaleIntercept": None,
        "NumberOfFrames": count,
        "SharedFunctionalGroupsSequence": [dataset(PixelValueTransformationSequence=[hu])],
        "PerFrameFunctionalGroupsSequence": [
            dataset(FrameVOILUTSequence=[window]) for window in windows
        ],
    }


@pytest.mark.parametrize("compressed", [None, RLELossless])
@pytest.mark.parametrize("frame", [1, 2, 3])
def test_the_chosen_frame_is_taken_with_its_own_window(compressed, frame):
    stack = np.stack([lungs(seed) for seed in range(3)])
    data = dicom(stack, compressed=compressed, **enhanced(3))
    image = decode(data, 64 * 64, DicomOptions(frame=frame))
    assert image.dicom == DicomInfo("file", 10 * (frame - 1), 100, frame, 3)
    assert np.array_equal(
        image.pixels[..., 0], windowed(stack[frame - 1] - 1000.0, 10 * (frame - 1), 100)
    )


@pytest.mark.parametrize("frame", [0, -1, 4, 10**9])
def test_a_frame_that_is_not_there_names_those_that_are(frame):
    data = dicom(np.stack([STORED] * 3), NumberOfFrames=3)
    with pytest.raises(ImageError, match=f"no frame {frame}; choose one from 1 to 3") as caught:
        decode(data, MAX_PIXELS, DicomOptions(frame=frame))
    assert caught.value.code == "no_such_frame"


def j2k(width, height):
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()


def test_boxes_before_a_jpeg_2000_codestream_are_skipped():
    endless = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(8)  # a box of length 0, for a reader of boxes
    images = []
    for boxes in (b"", endless):
        data = dicom(np.zeros((64, 64), np.uint8), JPEG2000, frame=boxes + j2k(64, 64))
        images.append(decode(data, MAX_PIXELS).pixels)
    assert np.array_equal(*images)


RLE_BOMB = struct.pack("<16I", 2, 64, 66, *[0] * 13) + b"\0\0" + b"\x81\0" * 200_000
NESTED = element(0x0008, 0x1140, b"SQ", b"", UNDEFINED)


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (dicom(STORED)[:3000], "corrupt", "ends in the middle"),
        (dicom(STORED)[:200], "corrupt", "ends in the middle"),
        (dicom(STORED)[:132], "not_an_image", "without pixels"),
        (dicom(STORED, Rows=None), "corrupt", "lacks Rows"),
        (dicom(STORED, BitsAllocated=None), "corrupt", "lacks BitsAllocated"),
        (dicom(STORED, Rows=65), "corrupt", "can't be decoded"),
        (dicom(STORED, Rows=0), "corrupt", "don't fit"),
        (
            dicom(STORED, Rows=16_000, Columns=16_000),
            "too_large",
            "16000×16000 pixels; at most 5,000,000 are accepted",
        ),
        (dicom(STORED, Rows=1, Columns=20_001), "too_large", "a side may have at most 20,000"),
        (
            dicom(STORED, JPEG2000, frame=j2k(9, 9), Rows=1200, Columns=1200),
            "too_large",
            "at most 1,250,000 are accepted for this kind of file",
        ),
        (
            dicom(STORED, JPEG2000, frame=j2k(9, 9), Rows=700, Columns=700, SamplesPerPixel=3),
            "too_large",
            "at most 416,666 are accepted for this kind of file",
        ),
        (dicom(STORED, NumberOfFrames=2**31 - 1), "corrupt", "number of frames"),
        (dicom(STORED, SamplesPerPixel=3), "corrupt", "don't fit"),
        (dicom(STORED, BitsStored=17), "corrupt", "don't fit"),
        (dicom(STORED, RescaleSlope=0), "corrupt", "slope is 0"),
        (dicom(STORED.astype(np.uint32)), "unsupported", "8 or 16 bits"),
        (dicom(STORED, PhotometricInterpretation="PALETTE COLOR"), "unsupported", "MONOCHROME1"),
        (dicom(STORED).replace(b"MONOCHROME2 ", b"ZZYZX QUENTI"), "unsupported", "MONOCHROME1"),
        (shipped("image_dfl.dcm"), "unsupported", "deflated"),
        (shipped("MR_small_jpeg_ls_lossless.dcm"), "unsupported", "JPEG-LS Lossless"),
        (shipped("SC_rgb_jpeg_gdcm.dcm"), "unsupported", "JPEG Lossless, Non-Hierarchical"),
        (shipped("JPGExtended.dcm"), "unsupported", "only 8-bit JPEG"),
        (
            dicom(STORED).replace(b"1.2.840.10008.1.2.1\0", b"Zzyzx^Quentin.99999\0"),
            "unsupported",
            "an unknown one",
        ),
        (shipped("JPEG2000-embedded-sequence-delimiter.dcm"), "corrupt", "too many tiles"),
        (shipped("rtplan.dcm"), "not_an_image", "without pixels"),
        (shipped("test-SR.dcm"), "not_an_image", "without pixels"),
        (dicom(STORED, JPEG2000Lossless, frame=j2k(4000, 3000)), "corrupt", "of another size"),
        (dicom(STORED, JPEG2000, frame=b"\xff\xd8nothing"), "corrupt", "no codestream"),
        (dicom(STORED, RLELossless, frame=RLE_BOMB), "corrupt", "can't be decoded"),
        (dicom(STORED, RLELossless, frame=b"\0\0"), "corrupt", "can't be decoded"),
        (dicom(STORED, RLELossless, frame=bytes(64)), "corrupt", "number of RLE segments"),
        (before_rows(dicom(STORED), (NESTED + ITEM) * 50_000), "corrupt", "deeper than 16"),
        (
            before_rows(dicom(STORED), NESTED + EMPTY_ITEM * 300_000),
            "corrupt",
            "more than 200,000 elements",
        ),
        (
            before_rows(dicom(STORED), element(0x0009, 0x1001, b"OB", b"abc", 2**32 - 2)),
            "corrupt",
            "a length in it",
        ),
        (
            before_rows(dicom(STORED), NESTED + b"\x10\x00\x10\x00PN\4\0abcd"),
            "corrupt",
            "something other than items",
        ),
    ],
)
def test_what_can_not_be_used_says_why_and_nothing_else(data, code, message, caplog):
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(ImageError) as caught:
            decode(data, MAX_PIXELS)
    assert (caught.value.code, message in str(caught.value)) == (code, True), str(caught.value)
    assert caught.value.__cause__ is None
    assert not warned
    assert "quenti" not in f"{caught.value}{caplog.text}".lower()


@pytest.mark.parametrize(
    "inserted",
    [
        b"",
        element(0x0008, 0x1140, b"SQ", EMPTY_ITEM * 100),
        NESTED
        + (EMPTY_ITEM + ITEM + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)) * 9
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        element(0x0009, 0x1001, b"UN", b"\xff" * 999),
        element(0x0009, 0x1001, b"UN", b"", UNDEFINED)
        + EMPTY_ITEM
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        element(0x0028, 0x0010, b"UN", b"\x40\x00"),  # Rows twice: the first counts
    ],
)
def test_what_is_not_needed_is_passed_over_and_tells_nothing(inserted, caplog):
    caplog.set_level(logging.DEBUG)
    image = decode(before_rows(dicom(STORED), inserted), MAX_PIXELS)
    assert np.array_equal(image.pixels[..., 0], LUNG)
    exposed = (
        json.dumps(vars(image.dicom))
        + str({k: v for k, v in vars(image).items() if k != "pixels"})
        + caplog.text
    )
    assert "Quentin" not in exposed


def pseudonym(**elements):
    return read_patient_pseudonym(dicom(STORED, **elements))


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_pseudonym_is_the_same_for_a_patient_and_for_no_other(syntax):
    found = pseudonym(PatientID="Q-17", StudyInstanceUID="1.2", syntax=syntax)
    assert re.fullmatch("dicom-[0-9a-f]{12}", found)
    assert found == pseudonym(PatientID=" Q-17 ", StudyInstanceUID="1.3", PatientName="other")
    assert found != pseudonym(PatientID="Q-18", StudyInstanceUID="1.2")


@pytest.mark.parametrize(
    "anonymous", [None, "", "Anonymous", "ANON_3", "unknown", "N/A", "0000", "---", "XXX"]
)
def test_without_a_patient_the_study_and_then_the_series_are_taken(anonymous):
    study = pseudonym(PatientID=anonymous, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    series = pseudonym(PatientID=anonymous, SeriesInstanceUID="1.2")
    assert study == pseudonym(PatientID=None, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.2")
    assert len({study, series, pseudonym(PatientID="1.2"), ""}) == 4  # one text in three places
    assert pseudonym(PatientID=anonymous) == ""


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("auto", "auto"),
        (" Lung ", "lung"),
        ("-600,1500", (-600.0, 1500.0)),
        ("40.5, 1e3", (40.5, 1000.0)),
    ],
)
def test_options_are_parsed_and_auto_takes_the_default_window(text, window):
    options = DicomOptions.parse(text)
    assert options == DicomOptions(window)
    frame = replace(options, frame=3)
    assert frame.with_default_window("bone") == DicomOptions(
        "bone" if window == "auto" else window, 3
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brain", "window: expected auto, lung, mediastinal, bone, or centre and width in HU"),
        ("40", "window: expected"),
        ("40,0", "width from 1"),
        ("nan,400", "window: expected"),
        ("40,inf", "window: expected"),
        ("1,2,3", "window: expected"),
        ("9" * 5000, "window: expected"),
    ],
)
def test_an_invalid_window_names_what_was_expected(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        DicomOptions.parse(text)
    assert len(str(caught.value)) < 200
