"""Candidates in, metrics out: inherited weights, short training, and the runner of jobs.

An evaluation is reproducible as a model: what an evaluator builds measures, in any process, exactly what was scored.

>>> from autoprune.evaluate.inherited import InheritedWeights
>>> from autoprune.testing.digits_network import digits_inherited, digits_setup
>>> setup = digits_setup()
>>> evaluator = InheritedWeights(setup)
>>> scored = evaluator.evaluate((1, 2), digits_inherited(setup))
>>> evaluator.measure(evaluator.build((1, 2), digits_inherited(setup))) == scored
True
"""
