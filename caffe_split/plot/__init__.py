"""Pictures of logs, nets, kernels and TPM. Only this package imports matplotlib."""
