"""`python -m models`: the models there are, in the order in which to read them."""

from importlib import import_module

from models import MODELS

if __name__ == "__main__":
    for name in MODELS:
        print(f"python -m models.{name:<24} {(import_module(f'models.{name}').__doc__ or '').splitlines()[0]}")
