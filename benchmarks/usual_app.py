"""What `serving.py` compares with: the app as such templates usually have it, on the same model.

Flask's development server; every request writes the image to inputImage.jpg in the working folder,
loads the model with TensorFlow and predicts.
"""

import argparse
import base64
from pathlib import Path

import numpy as np
import tensorflow as tf
from flask import Flask, jsonify, request

app = Flask(__name__)
PICTURE = "inputImage.jpg"


@app.get("/")
def home():
    return "ready"


@app.post("/predict")
def predict():
    Path(PICTURE).write_bytes(base64.b64decode(request.json["image"]))
    model = tf.keras.models.load_model(app.config["MODEL"])
    picture = tf.keras.utils.load_img(PICTURE, target_size=model.input_shape[1:3])
    batch = np.expand_dims(tf.keras.utils.img_to_array(picture), axis=0)
    called = int(np.argmax(model.predict(batch), axis=1)[0])
    return jsonify([{"image": "Negative" if called == 1 else "Positive"}])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="path of model.keras")
    parser.add_argument("port", type=int)
    chosen = parser.parse_args()
    app.config["MODEL"] = chosen.model
    app.run(host="127.0.0.1", port=chosen.port)
