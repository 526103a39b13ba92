"""How the package is installed; its version stands in caffe_split/__init__.py alone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Read as text: importing the package needs what is only being installed.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "caffe_split/__init__.py").read_text(encoding="utf-8"), re.M)[1]

setup(
    name="caffe-split",
    version=VERSION,
    description="Measure how the kernels of a Caffe net move in training, split convolutions by it, train on",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-2-Clause",
    packages=find_packages(include=["caffe_split", "caffe_split.*"]),
    package_data={
        "caffe_split": [
            "py.typed",
            "engine/kernels/*.cpp",
            "engine/kernels/*.h",
            "formats/prototxt/*.proto",
            "report/page.*",
            "study/Snakefile",
        ]
    },
    python_requires=">=3.9",
    install_requires=["numpy", "protobuf>=3.20", "matplotlib", "click>=8", "rich", "lmdb", "pillow"],
    extras_require={
        "hdf5": ["h5py"],
        "leveldb": ["plyvel"],
        "opencv": ["opencv-python-headless<5"],
        "digits": ["scikit-learn"],
        "torch": ["torch>=2.4", "typing_extensions>=4.4"],
        "onnx": ["onnx>=1.15", "onnxruntime>=1.16"],
        "study": ["pyyaml", "snakemake>=8; python_version >= '3.11'"],
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "import-linter",
            "mypy",
            "h5py",
            # It has no wheels for newer ones yet.
            "plyvel; python_version < '3.13' and sys_platform == 'linux'",
            "scikit-learn",
            "pandas",
            "websockets>=15",
            "nbclient",
            "onnx>=1.15",
            "onnxruntime>=1.16",
            "ipykernel",
            "build",
            "axe-core-python; python_version >= '3.10'",
            "jsonschema",
            "sphinx>=7.4",
            "furo",
            "myst-parser>=3",
            "opencv-python-headless<5",
            "snakemake>=8; python_version >= '3.11'",
            "snakemake-executor-plugin-cluster-generic; python_version >= '3.11'",
        ],
    },
    entry_points={
        "console_scripts": [
            "caffe-split = caffe_split.cli:main",
            "plot_loss.py = caffe_split.cli.plot_loss:main",
        ]
    },
)
