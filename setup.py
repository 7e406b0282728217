"""Packaging lives in setup.cfg; this shim lets pip build it."""

from setuptools import setup

setup()
