"""Groups of processes on this machine, as ``mlx.launch`` starts them.

Not in the default run, because each group takes seconds; ``.ci/run`` has a job for them.
"""
