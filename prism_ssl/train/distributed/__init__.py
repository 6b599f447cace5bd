"""Train with several workers: ranks, joint batches, devices, cluster resources."""
