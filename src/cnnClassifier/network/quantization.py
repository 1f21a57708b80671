"""Quantize an OpenVINO network to int8."""

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openvino

_PASSIVE = ("Constant", "Result")  # no arithmetic; NNCF refuses to ignore them


def quantize(network: "openvino.Model", images: Sequence[np.ndarray]) -> "openvino.Model":
    """Quantize the first four fifths of the convolutions, after training (Jacob et al. 2018).

    The last fifth and the head stay in floating point: errors there aren't averaged out anymore.
    For VGG16, that halves the difference of the probabilities and leaves three quarters of the
    arithmetic to int8.

    Args:
        network: from `export_openvino`.
        images: uint8, (height, width, 3), to estimate the ranges of the activations.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    probabilities, features, feature_maps = map(_upstream, network.get_results())
    ignored = {*probabilities, *feature_maps} - set(features)
    ignored -= {n.get_friendly_name() for n in network.get_ops() if n.get_type_name() in _PASSIVE}
    convolutions = []
    for node in network.get_ordered_ops():
        name = node.get_friendly_name()
        if name in features and node.get_type_name().endswith("Convolution"):
            convolutions.append(name)
    ignored.update(convolutions[len(convolutions) - len(convolutions) // 5 :])
    batches = [image[np.newaxis].astype(np.float32) for image in images]
    with contextlib.redirect_stdout(io.StringIO()):  # of NNCF's progress bars
        return nncf.quantize(
            network,
            nncf.Dataset(batches),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=sorted(ignored)),
            # A lesion is a few cells of the map with high values. Other estimators clip these.
            advanced_parameters=AdvancedQuantizationParameters(
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
            ),
        )


def _upstream(result: Any) -> set[str]:
    """Return the names of all nodes that a result depends on."""
    names: set[str] = set()
    pending = [result]
    while pending:
        node = pending.pop()
        if node.get_friendly_name() not in names:
            names.add(node.get_friendly_name())
            pending += [source.get_source_output().get_node() for source in node.inputs()]
    return names
