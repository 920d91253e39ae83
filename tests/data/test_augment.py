"""Augmentation: SplitMix64 and each transform against plain Python, distributions against formulas, and equal bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainkit import SGD, Callback, CrossEntropyLoss, Flatten, Linear, MSELoss, Sequential, Trainer, UserError, npy, tensors
from trainkit.app.cli.main import main
from trainkit.core import counters
from trainkit.core.counters import Draws, EpochDraws
from trainkit.core.rng import stream
from trainkit.data.dataset import Dataset
from trainkit.data.loader import batches
from trainkit.data.transforms import augmentations
from trainkit.data.transforms.augment import Augmenter, augmentations_of
from trainkit.trainer.session import Session

WORD = (1 << 64) - 1


class SplitMix64:
    """The reference implementation, number by number: https://prng.di.unimi.it/splitmix64.c"""

    def __init__(self, state: int) -> None:
        self.state = state & WORD

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & WORD
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        return z ^ (z >> 31)


def unsigned(v: torch.Tensor) -> list[int]:
    return [n & WORD for n in v.tolist()]


class Plain:
    """The numbers of one sample, by plain Python: those of `EpochDraws.of(index, None, "augment", place)`."""

    def __init__(self, seed: int, epoch: int, index: int, place: int) -> None:
        outer = SplitMix64(stream(seed, "augment", place, epoch))
        for _ in range(index + 1):
            state = outer.next()
        inner = SplitMix64(state)
        self.words = [inner.next() for _ in range(200)]

    def uniform(self, d: int) -> float:
        return (self.words[d] >> 11) / 2**53


def test_the_first_numbers_of_splitmix64_are_those_of_its_authors() -> None:
    """Of the seed 1234567, as other implementations of it test themselves."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    plain = SplitMix64(1234567)
    assert [plain.next() for _ in range(5)] == expected
    assert unsigned(counters.number(torch.tensor(1234567), torch.arange(5))) == expected


@given(st.integers(0, WORD), st.integers(0, 50))
def test_a_number_is_that_of_the_sequential_generator(state: int, d: int) -> None:
    plain = SplitMix64(state)
    words = [plain.next() for _ in range(d + 1)]
    start = torch.tensor([state - (1 << 64) if state >> 63 else state])
    draws = Draws(start)
    assert unsigned(counters.number(start, d)) == words[-1:]
    assert draws.uniform(d).tolist() == [(words[-1] >> 11) / 2**53]
    assert draws.integers(7, d).tolist() == [math.floor((words[-1] >> 11) / 2**53 * 7)]


def test_normal_numbers_are_quantiles_of_the_normal_distribution() -> None:
    q = counters.normal_quantiles().numpy()
    np.testing.assert_allclose(q, stats.norm.ppf((np.arange(65536) + 0.5) / 65536), rtol=1e-12, atol=1e-12)
    plain = SplitMix64(5)
    words = [plain.next() for _ in range(3)]
    expected = [q[(w >> shift) & 0xFFFF] for w in words for shift in (0, 16, 32, 48)][:10]
    assert Draws(torch.tensor([5])).normal(10).tolist() == [expected]


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 2.5, 50.0, 1000.0])
def test_the_shares_of_mixup_are_quantiles_of_the_beta_distribution(alpha: float) -> None:
    q = augmentations.beta_quantiles(alpha).numpy()
    expected = stats.beta.ppf((np.arange(len(q)) + 0.5) / len(q), alpha, alpha)
    np.testing.assert_allclose(q, expected, atol=1e-5)


# -- distributions ---------------------------------------------------------------------------------------------------------

N = 20_000


def drawn(place: int = 0, epoch: int = 0) -> Draws:
    return EpochDraws((0,), epoch).of(torch.arange(N), None, "augment", place)


def test_uniform_numbers_are_uniform_and_independent_of_their_neighbors() -> None:
    u = {
        "draw 0": drawn().uniform(0),
        "draw 1": drawn().uniform(1),
        "epoch 1": drawn(epoch=1).uniform(0),
        "place 1": drawn(1).uniform(0),
    }
    table = torch.stack([*u.values(), u["draw 0"].roll(1)])
    for row in table:
        assert stats.kstest(row.numpy(), "uniform").pvalue > 1e-4
    correlation = torch.corrcoef(table) - torch.eye(len(table), dtype=torch.float64)
    assert correlation.abs().max() < 5 / math.sqrt(N)


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    z = drawn().normal(5).flatten().numpy()
    assert stats.kstest(z, "norm").pvalue > 1e-4
    assert abs(z.mean()) < 5 / math.sqrt(5 * N)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / (5 * N))


def test_every_offset_of_a_crop_is_equally_likely() -> None:
    x = torch.zeros(N, 5, 5)
    x[:, 2, 2] = 1
    at = augmentations.Crop(2)(x, drawn()).flatten(1).argmax(1)
    assert stats.chisquare(at.bincount(minlength=25).numpy()).pvalue > 1e-4


def test_a_flip_has_its_probability() -> None:
    x = torch.tensor([[[1.0, 0.0]]]).expand(N, 1, 2)
    share = float(augmentations.Flip(0.3)(x, drawn())[:, 0, 1].mean())
    assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / N)


def test_an_erased_square_is_centered_at_any_pixel() -> None:
    erased = augmentations.Erase(1)(torch.ones(N, 1, 4, 6), drawn()).flatten(1).argmin(1)
    assert stats.chisquare(erased.bincount(minlength=24).numpy()).pvalue > 1e-4


# -- each transform, by plain Python ---------------------------------------------------------------------------------------

IMAGES = torch.rand(7, 2, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
INDEX = torch.tensor([3, 0, 11, 4, 5, 2, 9])
Image = list[list[float]]


def pixel(image: Image, i: float, j: float, fill: float) -> float:
    inside = 0 <= i < len(image) and 0 <= j < len(image[0])
    return image[int(i)][int(j)] if inside else fill


def between(image: Image, i: float, j: float, fill: float) -> float:
    top, left = math.floor(i), math.floor(j)
    f, g = i - top, j - left
    corners = [pixel(image, top + a, left + b, fill) for a in (0, 1) for b in (0, 1)]
    return (1 - f) * ((1 - g) * corners[0] + g * corners[1]) + f * ((1 - g) * corners[2] + g * corners[3])


def crop(image: Image, d: Plain) -> Image:
    down, right = (math.floor(d.uniform(k) * 5) - 2 for k in (0, 1))
    return [[pixel(image, i + down, j + right, 0.5) for j in range(6)] for i in range(5)]


def flip(image: Image, d: Plain) -> Image:
    return [row[::-1] for row in image] if d.uniform(0) < 0.5 else image


def shift(image: Image, d: Plain) -> Image:
    down, right = ((2 * d.uniform(k) - 1) * 1.5 for k in (0, 1))
    return [[between(image, i + down, j + right, 0.0) for j in range(6)] for i in range(5)]


def rotate(image: Image, d: Plain) -> Image:
    angle = math.radians((2 * d.uniform(0) - 1) * 30)
    places = [[((i - 2) + 1j * (j - 2.5)) * complex(math.cos(angle), -math.sin(angle)) for j in range(6)] for i in range(5)]
    return [[between(image, z.real + 2, z.imag + 2.5, 0.0) for z in row] for row in places]


def erase(image: Image, d: Plain) -> Image:
    top, left = (math.floor(d.uniform(1 + k) * size) - 1 for k, size in ((0, 5), (1, 6)))
    square = {(top + a, left + b) for a in range(3) for b in range(3)}
    erased = d.uniform(0) < 0.7
    return [[-1.0 if erased and (i, j) in square else image[i][j] for j in range(6)] for i in range(5)]


ORACLES: dict[str, tuple[Any, Callable[[Image, Plain], Image]]] = {
    "crop": ({"crop": {"padding": 2, "fill": 0.5}}, crop),
    "flip": ("flip", flip),
    "shift": ({"shift": 1.5}, shift),
    "rotate": ({"rotate": 30}, rotate),
    "erase": ({"erase": {"size": 3, "p": 0.7, "fill": -1.0}}, erase),
}


@pytest.mark.parametrize(("spec", "oracle"), ORACLES.values(), ids=ORACLES.keys())
def test_a_transform_is_its_formula(spec: Any, oracle: Callable[[Image, Plain], Image]) -> None:
    found = Augmenter(augmentations_of([spec]), 20)(IMAGES, IMAGES, INDEX, None, EpochDraws((3,), 2), unread)[0]
    plain = [Plain(3, 2, i, 0) for i in INDEX.tolist()]
    expected = [[oracle(channel, d) for channel in image] for image, d in zip(IMAGES.tolist(), plain, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def unread(index: torch.Tensor, replica: torch.Tensor | None) -> Any:
    raise AssertionError("only mixup reads other samples")


def test_noise_adds_its_normal_numbers() -> None:
    found = Augmenter(augmentations_of(["flip", {"noise": 0.1}]), 20)(IMAGES, IMAGES, INDEX, None, EpochDraws((3,), 2), unread)[
        0
    ]
    flipped = Augmenter(augmentations_of(["flip"]), 20)(IMAGES, IMAGES, INDEX, None, EpochDraws((3,), 2), unread)[0]
    q = counters.normal_quantiles()
    words = [Plain(3, 2, i, 1).words[:15] for i in INDEX.tolist()]
    at = torch.tensor([[(w >> s) & 0xFFFF for w in row for s in (0, 16, 32, 48)] for row in words])
    assert torch.equal(found, flipped + (q[at] * 0.1).view_as(flipped))


def test_mixup_mixes_inputs_and_targets_with_a_sample_changed_by_what_comes_before() -> None:
    x, t = torch.rand(20, 2, 3, dtype=torch.float64), torch.eye(20, dtype=torch.float64)
    draws, specs = EpochDraws((3,), 2), augmentations_of(["flip", {"mixup": 0.4}])
    found_x, found_t = Augmenter(specs, 20)(x[INDEX], t[INDEX], INDEX, None, draws, lambda i, r: (x[i], t[i]))
    table = augmentations.beta_quantiles(0.4)
    for k, i in enumerate(INDEX.tolist()):
        plain = Plain(3, 2, i, 1)
        j, share = math.floor(plain.uniform(0) * 20), float(table[math.floor(plain.uniform(1) * len(table))])
        one, other = (x[n].flip(-1) if Plain(3, 2, n, 0).uniform(0) < 0.5 else x[n] for n in (i, j))
        torch.testing.assert_close(found_x[k], share * one + (1 - share) * other, rtol=0, atol=1e-15)
        torch.testing.assert_close(found_t[k], share * t[i] + (1 - share) * t[j], rtol=0, atol=1e-15)


# -- the same bits ---------------------------------------------------------------------------------------------------------

ALL: list[Any] = [{"crop": 2}, "flip", {"shift": 1.3}, {"rotate": 20}, {"erase": 2}, {"noise": 0.2}, {"mixup": 0.4}]
n = 61


def dataset(targets: str = "onehot") -> Dataset:
    g = torch.Generator().manual_seed(1)
    label = torch.randint(3, (n,), generator=g)
    t = torch.eye(3)[label] if targets == "onehot" else label
    return tensors(torch.randn(n, 1, 5, 7, generator=g), t, classes=3)


@pytest.mark.parametrize(("size", "epoch", "block"), [(1, 0, 1), (7, 1, 4000), (8, 2, 1), (20, 3, 10_000)])
def test_no_bit_depends_on_the_size_of_batches_or_blocks(size: int, epoch: int, block: int) -> None:
    data, draws, order = dataset(), EpochDraws((5,), epoch), torch.randperm(n, generator=torch.Generator().manual_seed(epoch))
    augmenter = Augmenter(augmentations_of(ALL), n)
    (x, t), *_ = batches(data.train, order, n, 0, draws, augmenter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainkit.data.loader.GATHER_BYTES", block)
        found = list(batches(data.train, order, size, 0, draws, augmenter))
        later = list(batches(data.train, order, size, len(found) // 2, draws, augmenter))
    assert torch.equal(torch.cat([a for a, _ in found]), x)
    assert torch.equal(torch.cat([b for _, b in found]), t)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(found[len(found) // 2 :], later, strict=True))


def test_replicas_draw_the_numbers_of_single_runs() -> None:
    data, orders = dataset(), torch.stack([torch.randperm(n) for _ in range(3)])
    augmenter = Augmenter(augmentations_of(ALL), n)
    together = list(batches(data.train, orders, 8, 0, EpochDraws((5, 6, 7), 1), augmenter))
    for r in range(3):
        alone = batches(data.train, orders[r], 8, 0, EpochDraws((5 + r,), 1), augmenter)
        for (x, t), (own_x, own_t) in zip(together, alone, strict=True):
            assert torch.equal(x[r], own_x)
            assert torch.equal(t[r], own_t)


class Stop(Callback):
    """Ends the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step == self.step:
            session.stop("here", "enough", force=True)


def fitted(data: Dataset, resume: Any = None, stop: int = 0, **settings: Any) -> tuple[torch.Tensor, Any]:
    torch.manual_seed(0)
    net = Sequential(Flatten(), Linear(35, 3))
    settings = {"max_epochs": 3, "batch_size": 8, "device": "cpu", **settings}
    trainer = Trainer(callbacks=[Stop(stop)], **settings)
    trainer.fit(net, MSELoss(), SGD(net.param(), lr=0.1), data, resume=resume)
    return net.param()[0][0].clone(), trainer.fitted()


def test_a_run_resumed_inside_an_epoch_has_the_same_bits_and_other_epochs_other_samples(tmp_path: Path) -> None:
    data = dataset().augmented(*ALL)
    whole, session = fitted(data)
    _, stopped = fitted(data, stop=11)
    assert torch.equal(fitted(data, resume=stopped.snapshot())[0], whole)
    assert not torch.equal(fitted(dataset())[0], whole)
    firsts = [next(session.batches(e))[0] for e in (0, 1)]
    assert not torch.equal(*firsts)


def test_data_in_a_file_has_the_bits_of_data_in_memory(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    files = {"train_x": g.normal(size=(n, 5, 7)).astype("f4"), "train_t": g.integers(0, 3, n)}
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    read = [npy(**{name: str(tmp_path / f"{name}.npy") for name in files}, targets="onehot", stream=s) for s in (True, False)]
    streamed, kept = (fitted(data.augmented(*ALL))[0] for data in read)
    assert torch.equal(streamed, kept)


def test_an_evaluation_is_not_augmented() -> None:
    data = dataset()
    _, plain = fitted(data, max_epochs=1, max_steps=0)
    _, changed = fitted(data.augmented(*ALL), max_epochs=1, max_steps=0)
    assert plain.evaluate(plain.data.train) == changed.evaluate(changed.data.train)


def test_other_engines_run_eagerly_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    whole, session = fitted(dataset().augmented("flip"), engine="native")
    assert session.engine == "eager"
    assert "trainer.engine native: eager, since the samples are augmented\n" in capsys.readouterr().err
    assert torch.equal(whole, fitted(dataset().augmented("flip"))[0])


# -- what is wrong, and configurations -------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, str]] = {
    "a name": (["flop"], "data.augment: no augmentation 'flop'; did you mean 'flip'"),
    "not a list": ("flip", "data.augment: 'flip'; needs a list"),
    "two names": ([{"flip": {}, "crop": 2}], "needs one name with its options"),
    "an option": ([{"crop": {"pading": 2}}], "data.augment.crop: no option 'pading'; did you mean 'padding'"),
    "no padding": (["crop"], "data.augment.crop: needs padding"),
    "a type": ([{"crop": 1.5}], "data.augment.crop.padding: 1.5; needs a whole number"),
    "a range": ([{"flip": 2.0}], "data.augment.flip: p=2.0; needs a probability"),
    "an angle": ([{"rotate": 270}], "data.augment.rotate: degrees=270; needs an angle above 0"),
    "a share": ([{"mixup": 0.0}], "data.augment.mixup: alpha=0.0; needs a number above 0"),
}


@pytest.mark.parametrize(("specs", "says"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named(specs: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        augmentations_of(specs)


def test_what_does_not_fit_the_data_is_named_before_the_first_step() -> None:
    net = Sequential(Linear(2, 2))
    for specs, says in (("flip", r"augment.flip: a sample is \(2,\); needs images"), ("mixup", r"set data.targets=onehot")):
        data = tensors(torch.rand(8, 2), torch.arange(8) % 2).augmented(specs)
        with pytest.raises(UserError, match=says):
            Trainer(max_epochs=1).fit(net, CrossEntropyLoss(), SGD(net.param(), lr=0.1), data)


def test_a_configuration_augments_and_a_run_from_python_writes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(
        "data: {name: disk, train: 60, test: 9, augment: [{noise: 0.1}]}\nmodel: [{Linear: [2, 2]}]\n"
        "loss: CrossEntropyLoss\noptimizer: {SGD: {lr: 0.1}}\ntrainer: {max_epochs: 1}\ncallbacks: {checkpoint: {}}\n"
    )
    assert main(["fit", "a.yaml", "--run-dir", "run"]) == 0
    assert "augment" in Path("run/config.yaml").read_text()
    assert main(["check", "a.yaml"]) == 0
    assert main(["fit", "a.yaml", "data.augment=[blur]"]) == 2
    assert "data.augment: no augmentation 'blur'" in capsys.readouterr().err
    fitted(dataset().augmented({"crop": 2}, augmentations.Flip()), run_dir="own")
    assert "name: memory\n  augment: [{crop: {padding: 2}}, flip]" in Path("own/config.yaml").read_text()
