"""Metrics, one value per replica.

classification: predicted classes and the error. log: the latest values, and which are new. statistics: mean, standard deviation
and median over replicas. event_file: TensorBoard's files. (`trainer/evaluation.py` runs the net over a split; the losses are in
`trainkit.nn.losses`.)
"""
