"""How good are the pictures of a denoiser? Features of pictures, and measures on matrices of features."""
