"""TPM, displacement / path of kernels: TPM layers in a net, measuring it from their state, snapshots or a log."""
