"""Kernels: one function each, a plain version that runs on every device."""
