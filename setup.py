"""Package `paddlemix`. The requirement files are the single source of its dependencies."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EXTRAS = ("cpu", "eval", "hdf5", "serve", "structured", "cluster", "dev")


def read_requirements(name: str) -> list[str]:
    """Return the requirement lines of a file without comments."""
    lines = (line.split("#")[0].strip() for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


setup(
    name="paddlemix",
    version="0.1.0",
    description="LLaVA v1.5 and v1.6 (AnyRes) on PaddlePaddle: chat, train and merge on CUDA, Ascend NPU and CPU",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["paddlemix", "paddlemix.*"]),
    package_data={
        "paddlemix": [
            "config/llava/*.json",
            "config/llava/*/*.json",
            "evaluate/report/report.*",
            "examples/llava/**/*",
            "serve/page/*",
        ]
    },
    install_requires=read_requirements("requirements.txt"),
    extras_require={name: read_requirements(f"requirements-{name}.txt") for name in EXTRAS},
    entry_points={"console_scripts": ["paddlemix = paddlemix.cli:main"]},
)
