"""The answer for one image."""

from dataclasses import dataclass

DISCLAIMER = "Not a medical device: for teaching and research only, never for diagnosis or treatment."


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        label: the class for people, such as `Normal`.
        class_name: the class as its folder is named.
        probabilities: one for each class name, in the model's order; they sum to 1.
        model_id: which model said so.
    """

    label: str
    class_name: str
    probabilities: dict[str, float]
    model_id: str
