"""What is written down: the manifest's schema and metadata, the Space, and ``usable(sigma)``. Imports only pyarrow."""
