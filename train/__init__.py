"""Diffusion training that obeys a manifest: sampler -> fixed noise -> target -> loss -> checkpoint -> samples."""
