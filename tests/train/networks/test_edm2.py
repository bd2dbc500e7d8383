"""EDM2 against its published sizes, and what preserving magnitudes means."""

import math

import pytest
import torch
from ambient.train.config import TrainConfig
from ambient.train.networks.edm2 import (
    EDM2,
    Attention,
    Block,
    EDM2Config,
    Fourier,
    MPLayer,
    mp_cat,
    mp_silu,
    mp_sum,
    normalize,
)
from ambient.train.networks.kinds import build_network
from ambient.train.networks.layout import BlockShape, Resampling, resample
from scipy.integrate import quad
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

SMALL = EDM2Config(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(8,))


def magnitude(x: Tensor) -> float:
    return x.detach().square().mean().sqrt().item()


def small(num_classes: int = 3) -> EDM2:
    """A network with its gains open."""
    torch.manual_seed(0)
    return opened(EDM2(SMALL, channels=3, resolution=8, num_classes=num_classes).eval())


def opened(network: EDM2) -> EDM2:
    for name, weight in network.named_parameters():
        if name.endswith("gain"):
            nn.init.ones_(weight)
    return network


@pytest.mark.parametrize(
    ("size", "published"), [("xs", 125), ("s", 280), ("m", 498), ("l", 777), ("xl", 1_119), ("xxl", 1_523)]
)
def test_published_sizes(size: str, published: int) -> None:
    """In millions, for ImageNet-512: latents (4, 64, 64), 1000 classes."""
    config = TrainConfig.from_settings([], preset=f"imagenet512-{size}")
    with torch.device("meta"):
        network = build_network(config.network, channels=4, resolution=64, num_classes=config.num_classes)
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6) == published


def test_every_block_has_unit_magnitude_at_initialisation() -> None:
    """Of noise, on average over first weights; without attention, which has nothing to find there: see below."""
    config = EDM2Config(channels=64, multipliers=(1, 2), blocks=2, attention_resolutions=())
    squares: dict[str, list[float]] = {}
    for seed in range(8):
        torch.manual_seed(seed)
        network = EDM2(config, channels=16, resolution=32, num_classes=10)
        nn.init.ones_(network.gain)
        for name, module in network.named_modules():
            if isinstance(module, Block):
                module.attention = nn.Identity()
            if isinstance(module, Block) or name in ("first", "last", "embedding"):
                found = squares.setdefault(name, [])
                module.register_forward_hook(lambda _, __, out, found=found: found.append(magnitude(out) ** 2))
        with torch.no_grad():
            network(torch.randn(2, 16, 32, 32), torch.randn(2), torch.tensor([0, 9]))
    assert len(squares) == 3 + 5 + 9
    magnitudes = {name: math.sqrt(sum(found) / len(found)) for name, found in squares.items()}
    assert {name: m for name, m in magnitudes.items() if abs(m - 1) > 0.05} == {}


def test_attention_keeps_magnitude_where_positions_agree() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 128, 1, 1).expand(-1, -1, 4, 4)
    assert magnitude(Attention(128)(x)) == pytest.approx(1, abs=0.03)


def test_operations_keep_magnitude() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(4, 16, 64, 64), torch.randn(4, 48, 64, 64)
    for share in (0.1, 0.3, 0.5):
        assert magnitude(mp_sum(a, torch.randn_like(a), share)) == pytest.approx(1, abs=0.01)
    a_weight, b_weight = (mp_cat(a, b) / torch.cat([a, b], dim=1)).split([16, 48], dim=1)
    assert_close(a_weight.mean() ** 2 * 16, b_weight.mean() ** 2 * 48)
    assert magnitude(mp_cat(a, b)) == pytest.approx(1, abs=0.01)
    assert magnitude(normalize(3 * a * torch.rand(4, 1, 64, 64), dim=1)) == pytest.approx(1, abs=0.01)
    assert magnitude(Fourier(4096)(torch.randn(256))) == pytest.approx(1, abs=0.01)


def test_silu_constant_is_the_integral() -> None:
    def integrand(z: float) -> float:
        return (z / (1 + math.exp(-z))) ** 2 * math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    assert mp_silu(torch.tensor(1.0)).item() == pytest.approx(
        1 / (1 + math.exp(-1)) / math.sqrt(quad(integrand, -20, 20)[0]), rel=1e-3
    )


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)])
def test_only_the_direction_of_a_weight_matters(kernel: tuple[int, ...]) -> None:
    layer, x = MPLayer(16, 8, *kernel), torch.randn(4, 16, *(6 for _ in kernel))
    out = layer(x)
    out.pow(3).sum().backward()
    gradient, weight = layer.weight.grad.flatten(1), layer.weight.detach().flatten(1)
    cosine = functional.cosine_similarity(gradient, weight)
    assert gradient.norm(dim=1).min() > 1e-3
    assert_close(cosine, torch.zeros(8), rtol=0, atol=1e-5)
    layer.weight.data *= torch.linspace(0.1, 10, 8).view(-1, *(1 for _ in layer.weight.shape[1:]))
    assert_close(layer(x), out, rtol=1e-4, atol=1e-4)


def test_forced_normalisation_restores_lengths_and_changes_no_output() -> None:
    network, x, c_noise = small(), torch.randn(2, 3, 8, 8), torch.randn(2)
    layers = [module for module in network.modules() if isinstance(module, MPLayer)]
    others = {name: w.clone() for name, w in network.named_parameters() if not name.endswith("weight")}
    for layer in layers:
        layer.weight.data += 0.5 * torch.randn_like(layer.weight)
    before = network(x, c_noise), network.log_variance(c_noise)
    assert max(abs(magnitude(layer.weight) - 1) for layer in layers) > 0.05
    network.normalize_weights_()
    for layer in layers:
        assert_close(layer.weight.flatten(1).square().mean(1), torch.ones(len(layer.weight)))
    assert_close((network(x, c_noise), network.log_variance(c_noise)), before, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(w, network.get_parameter(name)) for name, w in others.items())


def test_weights_start_normalised() -> None:
    for layer in small().modules():
        if isinstance(layer, MPLayer):
            assert_close(layer.weight.flatten(1).square().mean(1), torch.ones(len(layer.weight)))


def test_attention_is_softmax_of_cosines() -> None:
    attention, x = Attention(128).double(), torch.randn(2, 128, 3, 5, dtype=torch.float64)
    weights = {}
    for name in ("qkv", "out"):
        weight = getattr(attention, name).weight
        weights[name] = weight / weight.norm(dim=1, keepdim=True)
    expected = torch.empty_like(x)
    for n in range(2):
        tokens, heads = x[n].reshape(128, 15), []
        query, key, value = (weights["qkv"] @ tokens).split(128)
        for c in (slice(0, 64), slice(64, 128)):
            q, k, v = (8 * functional.normalize(part[c], dim=0) for part in (query, key, value))
            heads.append(v @ torch.softmax(q.T @ k / 8, dim=1).T)
        h = weights["out"] @ torch.cat(heads)
        expected[n] = ((0.7 * tokens + 0.3 * h) / math.hypot(0.7, 0.3)).reshape(128, 3, 5)
    assert_close(attention(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("encoder", "resampling"), [(True, None), (True, "down"), (False, None), (False, "up")])
def test_a_block_is_its_formula(encoder: bool, resampling: Resampling | None) -> None:
    """Figure 21: normalised after the projection going down; the unprojected input in the branch going up."""
    block = Block(BlockShape(inputs=8, outputs=16, resampling=resampling), 12, dropout=0.0, encoder=encoder).double()
    nn.init.constant_(block.scale_gain, 0.7)
    x, embedding = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.randn(2, 12, dtype=torch.float64)

    def conv(h: Tensor, layer: MPLayer) -> Tensor:
        weight = layer.weight / layer.weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        return functional.conv2d(h, weight, padding="same")

    main = resample(x, resampling)
    branch = main
    if encoder:
        main = conv(main, block.skip)
        branch = main = main / main.square().mean(dim=1, keepdim=True).sqrt()
    scale = 1 + 0.7 * embedding @ functional.normalize(block.scale.weight, dim=1).T
    h = conv(functional.silu(branch) / 0.596, block.conv1) * scale[:, :, None, None]
    h = conv(functional.silu(h) / 0.596, block.conv2)
    main = main if encoder else conv(main, block.skip)
    assert_close(block(x, embedding), (0.7 * main + 0.3 * h) / math.hypot(0.7, 0.3), rtol=1e-4, atol=1e-4)


def test_learnt_variance_finds_the_loss_at_each_level() -> None:
    """exp(-u) L + u is least where u = ln L (eq. 21)."""
    network, c_noise = small(), torch.linspace(-1, 1, 16)
    wanted = 1.0 + 0.5 * c_noise
    optimizer = torch.optim.Adam([network.variance.weight], lr=0.01)
    for _ in range(500):
        optimizer.zero_grad()
        u = network.log_variance(c_noise)
        (torch.exp(wanted - u) + u).mean().backward()
        optimizer.step()
        network.normalize_weights_()
    assert_close(network.log_variance(c_noise), wanted, rtol=0, atol=0.1)


def test_learnt_variance_is_float32_under_autocast() -> None:
    network, c_noise = small(), torch.randn(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network.log_variance(c_noise)
    assert torch.equal(rough, network.log_variance(c_noise))
