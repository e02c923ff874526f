"""`python -m models`: the models there are."""

from models import autoencoder

MODELS = (autoencoder,)

if __name__ == "__main__":
    for module in MODELS:
        name = module.__spec__.name if module.__spec__ else module.__name__
        print(f"python -m {name:<24} {(module.__doc__ or '').splitlines()[0]}")
