"""Map the folders under one package, so that an installation claims no name but `sonodistill`."""

from setuptools import find_namespace_packages, setup

FOLDERS = [
    "losses", "metrics", "figures", "models", "datamodules", "lightning_modules", "callbacks", "export", "experiments",
]  # fmt: skip
packages = find_namespace_packages(include=[name for folder in FOLDERS for name in (folder, f"{folder}.*")])
setup(
    packages=["sonodistill", *(f"sonodistill.{name}" for name in packages)],
    package_dir={f"sonodistill.{folder}": folder for folder in FOLDERS},
)
