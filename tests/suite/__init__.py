"""One suite over every registered Op, driven by the Op's own record.

Read `strategies` (how a call of any Op is drawn), `differences` (derivatives by differences), `oracles` (what NumPy and
SciPy say), `checks` (what must hold for a call); the tests are `test_every_op` (all checks over all Ops),
`test_planted_bugs` (every check can fail) and `test_composites` (public functions that have no Op of their own).

An elementwise, linear or bilinear Op needs no entry anywhere: to declare it is to test it.
"""
