"""Package `paddlemix`. The requirement files are the single source of its dependencies."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
OPTIONS = ("cluster", "eval", "hdf5", "serve", "structured")


def read_requirements(name: str) -> list[str]:
    """Return the requirement lines of a file without comments."""
    lines = (line.split("#")[0].strip() for line in (HERE / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def read_version() -> str:
    """Return the version that the package states."""
    text = (HERE / "paddlemix" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


# The framework is no dependency: each machine needs its own build, and pip would put that for the CPU over any other.
requirements = read_requirements("requirements.txt")
framework = [line for line in requirements if line.startswith("paddlepaddle")]
extras = {name: read_requirements(f"requirements-{name}.txt") for name in (*OPTIONS, "cpu", "dev")}
extras["all"] = sorted({line for name in (*OPTIONS, "cpu") for line in extras[name]})
extras["cpu"] = framework + extras["cpu"]

setup(
    name="paddlemix",
    version=read_version(),
    description="LLaVA v1.5 and v1.6 (AnyRes) on PaddlePaddle: chat, train, evaluate and serve on CUDA, Ascend and CPU",
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
    exclude_package_data={"": ["*.pyc"]},
    install_requires=[line for line in requirements if line not in framework],
    extras_require=extras,
    entry_points={"console_scripts": ["paddlemix = paddlemix.cli:main"]},
)
