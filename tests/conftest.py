"""How Hypothesis runs: `dev` by default, `ci` where CI is set, and `deep` when asked for.

Choose with HYPOTHESIS_PROFILE=deep, or `pytest --hypothesis-profile=deep`.
"""

import os

from hypothesis import HealthCheck, settings

# No deadlines anywhere: a test that fails on a slow machine says nothing about the code.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, database=None, print_blob=True)
settings.register_profile(
    "deep", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
