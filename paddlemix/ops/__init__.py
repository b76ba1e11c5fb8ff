"""One file per operation: its plain version, and the kernels of devices, which `kernel_checks.py` tries before use."""
