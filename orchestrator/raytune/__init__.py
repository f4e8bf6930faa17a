"""The only room that knows Ray: a sweep's driver, its Tune run, and the workers that train.

`driver.py` is the process of one sweep. `tune_run.py` holds Tune's hooks and every private Tune
name that we rely on. `shell.py` is the trainable that Tune sees; `workers.py` the ranks behind it.
`cluster.py` reports what the cluster has.
"""
