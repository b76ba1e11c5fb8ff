"""Encoded rows in HDF5 files with the layout of Cerebras' Model Zoo, release 2.3: written, and read to train on."""
