"""Where in the picture the model looked: class activation maps (Zhou et al. 2016)."""

from typing import TYPE_CHECKING

import numpy as np

from cnnClassifier.network.heads import MAP_LAYER, NORM_LAYER

if TYPE_CHECKING:
    import keras

OUTPUT_LAYER, POOL_LAYER = "probabilities", "head_pool"


class ActivationMap:
    """The class activation map of a head with one dense layer.

    With pooling or flattening before it, the gradient of a class's score with respect to the last map is that layer's
    weights: no second pass is needed.

    Args:
        weights: float, (positions or 1, channels, classes): a flattened map has weights for each place, a pooled one
            has one set.
        layer: whose output `maps` takes.
    """

    def __init__(self, weights: np.ndarray, layer: str = "") -> None:
        self.weights = weights
        self.layer = layer

    @classmethod
    def of(cls, model: "keras.Model") -> "ActivationMap":
        """Take layer and weights from a model with a head from `add_head`."""
        names = [layer.name for layer in model.layers]
        map_layer = MAP_LAYER if MAP_LAYER in names else names[names.index(POOL_LAYER) - 1]
        weights = model.get_layer(OUTPUT_LAYER).get_weights()[0]  # (features, classes)
        if map_layer != MAP_LAYER:
            gamma, _, _, variance = model.get_layer(NORM_LAYER).get_weights()
            weights = (
                weights * (gamma / np.sqrt(variance + model.get_layer(NORM_LAYER).epsilon))[:, None]
            )
        channels = model.get_layer(map_layer).output.shape[-1]
        return cls(weights.reshape(-1, channels, weights.shape[1]), map_layer)

    def maps(self, activations: np.ndarray, called: np.ndarray) -> np.ndarray:
        """Return where the called class's score comes from, against the mean of the other classes.

        Args:
            activations: output of `layer`, float (n, h, w, channels).
            called: class of each image, int (n,).

        Returns:
            float32, (n, h, w), 0 to 1; all 0 where nothing speaks for the class.
        """
        count, height, width, channels = activations.shape
        classes = self.weights.shape[2]
        others = (self.weights.sum(2, keepdims=True) - self.weights) / (classes - 1)
        contrast = (self.weights - others)[:, :, called].transpose(2, 0, 1)
        flat = activations.reshape(count, height * width, channels)
        evidence = np.maximum((flat * contrast).sum(2), 0).reshape(count, height, width)
        peak = evidence.max((1, 2), keepdims=True)
        return np.divide(evidence, peak, out=np.zeros_like(evidence), where=peak > 0).astype(
            np.float32
        )
