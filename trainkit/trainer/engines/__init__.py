"""How the steps of an epoch are taken: one by one (`step`), or many in one call (`compiled`, `cuda_graph`)."""
