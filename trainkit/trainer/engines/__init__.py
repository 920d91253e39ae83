"""The engines that take the steps of an epoch: one by one (`step`), or many in one call (`compiled`, `cuda_graph`)."""
