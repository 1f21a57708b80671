"""Install the package in `src`, so that notebooks and other projects can import it."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="cnnClassifier",
    version="0.2.0",
    description="Train, evaluate and serve image classifiers",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "cnnClassifier.evaluation": ["*.j2", "*.html", "*.md", "*.txt"],
        "cnnClassifier.dataset": ["report.html"],
        "cnnClassifier.tuning": ["report.html"],
        "cnnClassifier.serving": ["openapi.yaml"],
        "cnnClassifier.utils": ["*.html"],
    },
    python_requires=">=3.11",
)
