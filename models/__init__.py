"""The models of the lectures, one a page, each trained on real images and checked: `python -m models` lists them."""

from importlib.util import find_spec

_missing = [name for name in ("matplotlib", "pooch", "rich", "safetensors", "sklearn") if find_spec(name) is None]
if _missing:
    raise ImportError(f"the models need {', '.join(_missing)}: pip install -e '.[models]' in the folder of the project")

MODELS = (
    "pca",
    "autoencoder",
    "deep_autoencoder",
    "denoising_autoencoder",
    "sparse_autoencoder",
    "vae",
    "gan",
    "classifier",
)  # in the order in which to read them
