"""Ambient: what is each picture good for?

The package finds, for every picture of a pool, the noise levels at which it is as good as a clean one
(Ambient Diffusion Omni, arXiv 2506.10038), writes them to a Parquet manifest, and trains diffusion models that obey
them. Imports flow one way: ``cli -> train -> curate -> schemas``.
"""

__version__ = "0.1.0"
