"""Networks: callables (x, c_noise, condition) -> raw output, to be wrapped by ``train/precondition.py``."""
