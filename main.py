"""Run the pipeline and its commands: `python main.py --help` lists them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))
from cnnClassifier.cli import main

if __name__ == "__main__":
    sys.exit(main())
