"""Where an installation keeps the folders beside lmmsteer/ (see lmmsteer/places.py)."""

from setuptools import find_namespace_packages, setup

BESIDE = ("analysis", "conf", "jobs")

setup(
    packages=[
        *find_namespace_packages(include=["lmmsteer*", "hydra_plugins*"]),
        *(
            f"lmmsteer._top.{name}"
            for name in find_namespace_packages(include=[f"{name}*" for name in BESIDE])
        ),
    ],
    package_dir={f"lmmsteer._top.{name}": name for name in BESIDE},
)
