"""Class activation maps (Zhou et al. 2016): the regions that the prediction is based on."""

from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.network.heads import MAP_LAYER, NORM_LAYER, OUTPUT_LAYER, POOL_LAYER

if TYPE_CHECKING:
    import keras


class ClassActivationMap:
    """The class activation map of a head with one dense layer.

    With pooling or flattening before it, the gradient of a class's score with respect to the last
    feature map is that layer's weights: no backward pass is needed.

    Args:
        weights: float, (positions, channels, classes): a flattened map has weights for each
            position, a pooled one has one set for all.
        layer: the layer whose output `compute` takes.
    """

    def __init__(self, weights: np.ndarray, layer: str = "") -> None:
        self.weights = weights
        self.layer = layer

    @classmethod
    def from_model(cls, model: "keras.Model") -> "ClassActivationMap":
        """Take layer and weights from a model with a head from `add_head`."""
        names = [layer.name for layer in model.layers]
        map_layer = MAP_LAYER if MAP_LAYER in names else names[names.index(POOL_LAYER) - 1]
        weights = model.get_layer(OUTPUT_LAYER).get_weights()[0]  # (features, classes)
        if map_layer != MAP_LAYER:  # the normalization comes after the map: fold it in
            norm = model.get_layer(NORM_LAYER)
            gamma, _, _, variance = norm.get_weights()
            weights = weights * (gamma / np.sqrt(variance + norm.epsilon))[:, None]
        channels = model.get_layer(map_layer).output.shape[-1]
        return cls(weights.reshape(-1, channels, weights.shape[1]), map_layer)

    def compute(self, feature_maps: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Return the contributions to the predicted class's score, minus the other classes' mean.

        Args:
            feature_maps: output of `layer`, float (n, h, w, channels).
            predicted: class index of each image, int (n,).

        Returns:
            float32, (n, h, w), 0 to 1; all 0 where nothing contributes to the class.
        """
        count, height, width, channels = feature_maps.shape
        classes = self.weights.shape[2]
        others = (self.weights.sum(2, keepdims=True) - self.weights) / (classes - 1)
        contrast = (self.weights - others)[:, :, predicted].transpose(2, 0, 1)
        flat = feature_maps.reshape(count, height * width, channels)
        evidence = np.maximum((flat * contrast).sum(2), 0).reshape(count, height, width)
        peak = evidence.max((1, 2), keepdims=True)
        scaled = np.divide(evidence, peak, out=np.zeros_like(evidence), where=peak > 0)
        return scaled.astype(np.float32)
