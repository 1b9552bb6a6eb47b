"""Package metadata: lower bounds of what the code needs; constraints.txt holds what was tested."""

from pathlib import Path

from setuptools import find_packages, setup

CORE = [
    "torch>=2.10",  # earlier releases have known holes in torch.load (CVE-2026-24747)
    "diffusers>=0.38",  # custom pipelines are closed from 0.38 on (CVE-2026-44513)
    "transformers>=5.0",
    "accelerate>=1.10",
    "peft>=0.17",
    "safetensors>=0.5",
    "filelock>=3.15",  # releases the lock with the process that held it
    "matplotlib>=3.8",
    "Pillow>=12.3",  # image parser overflows fixed (CVE-2026-55379)
    "numpy>=2.0",
    "psutil>=5.9",
    "pyyaml>=6.0",
    "tensorboard>=2.15",
    "tqdm>=4.60",
]

setup(
    name="b4m",
    version="0.1.0",
    description="Break-for-make: content-style customization of Stable Diffusion XL by partly learnable LoRA",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    install_requires=CORE,
    extras_require={
        "eval": ["open_clip_torch>=2.24", "torchvision"],
        "quantize": ["torchao>=0.18"],
        "dev": ["torchao>=0.18", "pytest>=8", "hypothesis>=6", "ruff>=0.6"],
    },
    entry_points={"console_scripts": ["b4m=b4m.apps.cli:main"]},
)
