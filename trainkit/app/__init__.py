"""The application: everything below it works without it.

experiment: a configuration or a run's folder as data, net and trainer (`trainkit.load`). config: from YAML to objects. cli: the
commands. compare: configurations side by side. verify_resume: the test that resuming is exact. check, rehearsal: `check`'s
derivatives and its two steps. prediction_output: the file that `predict` writes.
"""
