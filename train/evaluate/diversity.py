"""How many different pictures a set holds, without a reference."""

import torch
from torch import Tensor


def vendi(features: Tensor) -> float:
    """Vendi score: exp of the entropy of the eigenvalues of K / N, between 1 (all alike) and N (arXiv 2210.02410).

    features: (N, D), no row zero. K holds cosines of features, so K / N shares its eigenvalues but zeros with the
    (D, D) matrix of the normalised features, and whichever is smaller is decomposed.
    """
    x = torch.nn.functional.normalize(features.double(), dim=1)
    matrix = (x @ x.T if len(x) < x.shape[1] else x.T @ x) / len(x)
    values = torch.linalg.eigvalsh(matrix).clamp(min=0)
    return float(torch.exp(torch.special.entr(values).sum()))
