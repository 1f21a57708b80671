"""Stage prepare_base_model: a pretrained backbone, and the classifier with the heads on it."""

from cnnClassifier.entity.config_entity import PrepareBaseModelConfig
from cnnClassifier.entity.manifest import Manifest
from cnnClassifier.network import backend
from cnnClassifier.network.architecture import (
    add_heads,
    averaged_layers,
    build_backbone,
    resolve_feature_layer,
)
from cnnClassifier.network.serialization import save_model
from cnnClassifier.network.weights import load_pretrained
from cnnClassifier.utils.common import format_size
from cnnClassifier.utils.log import logger


class PrepareBaseModel:
    """Build the backbone, load its weights and attach the heads."""

    def __init__(self, config: PrepareBaseModelConfig) -> None:
        self.config = config

    def _count_classes(self) -> int:
        count = self.config.class_count
        return len(Manifest.read(self.config.manifest_path).classes) if count == "auto" else count

    def run(self) -> None:
        """Write `base_model.keras` and `updated_base_model.keras`.

        Raises:
            WeightsError: no source has the weights.
            ConfigError: the backbone has no such feature layer.
        """
        config = self.config
        backend.start()
        base = build_backbone(config.backbone, config.image_size, config.seed)
        if config.weights is not None:
            load_pretrained(
                base, config.backbone, config.weights, config.imagenet_sources, config.weights_cache
            )
        layer = resolve_feature_layer(config.backbone, config.feature_layer, base)
        classifier = add_heads(
            base,
            averaged_layers(config.backbone, base),
            layer,
            config.head,
            config.head_count,
            config.dropout,
            self._count_classes(),
            config.seed,
        )
        save_model(base, config.base_model_path)
        save_model(classifier, config.updated_base_model_path)
        if config.weights is None and config.fine_tune_from is None:
            logger.warning(
                "WEIGHTS: null, and the backbone is frozen: the heads only see random features. "
                "Set WEIGHTS: imagenet, or FINE_TUNE_FROM"
            )
        logger.info(
            "%s with %s weights, %d heads %s on %s: %s",
            *(config.backbone, config.weights or "random"),
            *(config.head_count, config.head, layer),
            format_size(config.updated_base_model_path.stat().st_size),
        )
