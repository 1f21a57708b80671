"""What every page, card and table that shows a result says."""

DISCLAIMER = "Not a medical device: for research and teaching only, never for a diagnosis."
SYNTHETIC = "Trained and tested on synthetic pictures (the phantom): these figures say nothing about patients."
