"""The generic suite of `minigrad.testing.suite` over every registered Op, driven by the Op's own record.

Read `engine_calls` (how calls of the engine's own operations are drawn where the record does not say), `oracles` (what
NumPy and SciPy say); the tests are `test_every_op` (all checks over all Ops), `test_planted_bugs` (every check can
fail) and `test_composites` (public functions that have no Op of their own).

An elementwise, linear or bilinear Op needs no entry anywhere: to declare it is to test it.
"""
