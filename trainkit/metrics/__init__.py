"""Metrics, one value per replica.

classification: which class an output predicts. interpretation: what outputs mean. log: the latest values, and which are new.
statistics: mean, standard deviation and median over replicas. event_file: TensorBoard's files. (`trainer/evaluation.py` runs
the net over a split; the losses are in `trainkit.nn.losses`.)

A metric is a state, to which batches add and which merges with others, and a value that is read from it (metric). A state
serves several metrics: confusion (accuracy to Jaccard index) and agreement (κ, MCC); regression; ranking (AUC, average
precision); per_sample (top-k, log loss, Brier score, calibration); own (the user's). task: what they know of the outputs.
metric_set: the metrics of one evaluation. table: the metrics by name.
"""
