"""Teachers: what they say of the student's images, the two losses, and who is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models._hub import save_for_hf
from torch import Tensor

import sret_nas
from sret_nas.errors import ConfigError, SretNasError, UsageError
from sret_nas.model import create_model
from sret_nas.training.teachers import KINDS, Teacher, blend

CPU = torch.device("cpu")
SIDE, CLASSES = 32, 5
NAMES = tuple("abcde")
TIMM = "test_resnet"
"""timm's smallest."""
VIT = "vit_tiny_patch16_224"
"""Fixed in size; made small by its options."""
VIT_OPTIONS = {"embed_dim": 24, "depth": 1, "num_heads": 2}
SMALL: dict[str, Any] = {
    "image_size": SIDE,
    "stem_stride": 4,
    "num_classes": CLASSES,
    "stages": [{"heads": 2, "head_dim": 4, "groups": [4]}, {"heads": 2, "head_dim": 8}],
}


def load(*names: object, **options: Any) -> Teacher:
    wanted: dict[str, Any] = {
        "num_classes": CLASSES,
        "image_size": SIDE,
        "in_chans": 3,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.25),
        "device": CPU,
        "dtype": torch.float32,
    }
    return Teacher.load([str(name) for name in names], **{**wanted, **options})


def images(channels: int = 3) -> Tensor:
    return torch.randn(4, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def fresh(name: str = TIMM, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES, **options)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    model = create_model(SMALL, pretrained_cfg_overlay=cfg)
    return sret_nas.save(model, tmp_path / "ours", label_names=list(NAMES), pretrained_cfg=cfg)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    save_for_hf(fresh(), tmp_path / "theirs", model_config={"label_names": list(NAMES)})
    return tmp_path / "theirs"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(fresh().state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_it_sees_the_pixels_as_it_was_trained_to(ours: Path) -> None:
    """The student's normalisation is undone and the teacher's own done, to rounding."""
    x = images()
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])
    pixels = x * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    own = [torch.tensor(values).view(-1, 1, 1) for values in ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))]
    with torch.no_grad():
        expected = sret_nas.load(ours).eval()((pixels - own[0]) / own[1]).softmax(1)
    torch.testing.assert_close(load(ours).probabilities(x), expected, rtol=1e-4, atol=1e-6)


def test_a_temperature_divides_logits(ours: Path) -> None:
    teacher, x = load(ours), images()
    cold, warm = teacher.probabilities(x), teacher.probabilities(x, 3.0)
    torch.testing.assert_close(F.softmax(cold.log() / 3, dim=1), warm)
    assert not torch.allclose(cold, warm)


def test_several_are_averaged(ours: Path, theirs: Path) -> None:
    x = images()
    one, other = load(ours).probabilities(x, 2), load(theirs).probabilities(x, 2)
    torch.testing.assert_close(load(ours, theirs).probabilities(x, 2), (one + other) / 2)
    assert load(ours, theirs).names == (str(ours), str(theirs))


def test_a_file_of_weights_is_the_model_it_came_from(weights: Path, theirs: Path) -> None:
    x = images()
    assert load(f"{TIMM}={weights}").probabilities(x).equal(load(theirs).probabilities(x))


def test_a_checkpoint_of_ours_by_architecture(ours: Path, tmp_path: Path) -> None:
    model = sret_nas.load(ours)
    model.arch.save(tmp_path / "arch.yaml")
    sret_nas.model.folder.save_checkpoint(model, tmp_path / "w.safetensors")
    found = load(
        f"{tmp_path / 'arch.yaml'}={tmp_path / 'w.safetensors'}",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(found.probabilities(x), model.eval()(x).softmax(1))


def test_grey_images_are_rgb_with_equal_channels(theirs: Path) -> None:
    x = images(1)
    found = load(theirs, in_chans=1, mean=(0.3,), std=(0.2,)).probabilities(x)
    rgb = load(theirs, mean=(0.3,) * 3, std=(0.2,) * 3).probabilities(x.expand(-1, 3, -1, -1))
    torch.testing.assert_close(found, rgb)


def test_a_grey_teacher_of_rgb_images_is_refused(tmp_path: Path) -> None:
    save_for_hf(fresh(in_chans=1), tmp_path / "grey")
    with pytest.raises(
        UsageError, match=r"takes images of 1 channel\(s\), the data have 3"
    ) as found:
        load(tmp_path / "grey")
    assert "sret-nas train" in str(found.value.hint)
    load(tmp_path / "grey", in_chans=1, mean=(0.3,), std=(0.2,))


def test_nothing_of_it_is_trained_and_targets_may_be_used_in_a_step(ours: Path) -> None:
    teacher = load(ours)
    student = torch.zeros(CLASSES, requires_grad=True)
    targets = teacher.probabilities(images().requires_grad_())
    assert not targets.requires_grad and not targets.is_inference()
    (targets * student.log_softmax(0)).sum().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    (member,) = teacher.members
    assert not member.module.training
    assert not any(p.requires_grad or p.grad is not None for p in member.module.parameters())


def test_it_computes_as_a_training_does(ours: Path) -> None:
    """In bf16 where it says so, whatever surrounds it; what comes out is float32."""
    x = images()
    exact, low = load(ours), load(ours, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert exact.probabilities(x).equal(load(ours).probabilities(x))
    found = low.probabilities(x)
    assert found.dtype == torch.float32
    assert not found.equal(exact.probabilities(x))
    torch.testing.assert_close(found, exact.probabilities(x), rtol=0.05, atol=0.01)


def test_the_global_generators_are_left_as_they_were(ours: Path, theirs: Path) -> None:
    before = torch.get_rng_state()
    load(ours, theirs)
    assert torch.get_rng_state().equal(before)


def published_loss(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """As kd_loss.py of MEAL V2 has it: soft labels only, mean over the batch."""
    rows = [
        -sum(
            torch.exp(t_i[k] / temperature)
            / torch.exp(t_i / temperature).sum()
            * (s_i[k] / temperature - torch.logsumexp(s_i / temperature, 0))
            for k in range(len(t_i))
        )
        for s_i, t_i in zip(s, t, strict=True)
    ]
    return torch.stack(rows).mean()  # type: ignore[arg-type]


def deit_loss(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """DeiT's with alpha 0.5, both losses on one head; labels may be mixed."""
    own = torch.sum(-labels * F.log_softmax(s, dim=-1), dim=-1).mean()
    return 0.5 * own + 0.5 * F.cross_entropy(s, t.argmax(dim=1))


@pytest.mark.parametrize(("kind", "temperature"), [("soft", 1.0), ("soft", 4.0), ("hard", 1.0)])
def test_losses_are_the_published_ones_in_value_and_gradient(
    ours: Path, kind: Any, temperature: float
) -> None:
    teacher, x = load(ours), images()
    generator = torch.Generator().manual_seed(2)
    labels = torch.rand(4, CLASSES, generator=generator).softmax(1)
    logits = [torch.randn(4, CLASSES, generator=generator.manual_seed(3)) for _ in range(2)]
    mine, other = (value.requires_grad_() for value in logits)
    t = teacher.probabilities(x).log()  # its logits, but for a constant

    targets = teacher.targets(x, labels, kind, temperature)
    (-(targets * F.log_softmax(mine / temperature, dim=1)).sum(1).mean()).backward()  # type: ignore[no-untyped-call]
    if kind == "soft":
        expected = published_loss(other, t, temperature)
    else:
        expected = deit_loss(other, t, labels)
    expected.backward()  # type: ignore[no-untyped-call]
    found = -(targets * F.log_softmax(mine / temperature, dim=1)).sum(1).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mine.grad, other.grad)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("kind", "temperature", "message"),
    [("both", 1.0, "allowed: soft, hard"), ("hard", 2.0, "allowed: 1"), ("soft", 0.0, "above 0")],
)
def test_a_form_that_there_is_not_is_refused(
    ours: Path, kind: Any, temperature: float, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        load(ours).targets(images(), torch.eye(CLASSES)[:4], kind, temperature)


def test_hard_is_half_the_labels_and_half_the_likeliest() -> None:
    teacher = torch.tensor([[0.2, 0.5, 0.3]])
    assert blend(teacher, torch.tensor([[1.0, 0.0, 0.0]]), "hard").tolist() == [[0.5, 0.5, 0.0]]


def test_other_classes_are_refused_with_the_next_step(
    ours: Path, theirs: Path, weights: Path
) -> None:
    for name in (TIMM, ours, theirs, f"{TIMM}={weights}"):
        with pytest.raises(UsageError, match=r"knows [\d,]+ classes, the data have 7") as found:
            load(name, num_classes=7, data="pictures")
        assert "sret-nas train" in str(found.value.hint)
        assert "--data pictures" in str(found.value.hint)
    with pytest.raises(UsageError, match=r"test_resnet: knows 1,000 classes, the data have 5"):
        load(TIMM)


def test_classes_are_compared_by_name_where_a_folder_knows_them(ours: Path, theirs: Path) -> None:
    for folder in (ours, theirs):
        load(folder, classes=NAMES)
        with pytest.raises(UsageError, match=r"in another order: its class 1 is 'b'.*data 'c'"):
            load(folder, classes="acbde")
        with pytest.raises(UsageError, match=r"knows other classes: its class 4 is 'e'.*data 'x'"):
            load(folder, classes="abcdx")


def test_a_design_of_a_fixed_size_is_made_for_the_students(ours: Path, tmp_path: Path) -> None:
    save_for_hf(fresh(VIT, **VIT_OPTIONS), tmp_path / "vit")
    for folder in (ours, tmp_path / "vit"):
        config = json.loads((folder / "config.json").read_text())
        own = config["pretrained_cfg"]["input_size"][-1]
        assert load(folder, image_size=own).notes == ()
        teacher = load(folder, image_size=64)
        assert teacher.notes == (
            f"teacher {folder}: trained on images of {own} px: made for 64 px by resampling",
        )
        assert teacher.probabilities(torch.zeros(2, 3, 64, 64)).shape == (2, CLASSES)


def test_a_convolutional_net_takes_any_size_and_it_is_said(theirs: Path) -> None:
    (note,) = load(theirs).notes
    assert note.endswith("trained on images of 160 px, asked about images of 32 px")


def test_a_size_that_it_cannot_have_is_refused(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="made for images of 32 px, and cannot be made for 3 px"):
        load(ours, image_size=3)
    save_for_hf(fresh(VIT, **VIT_OPTIONS), tmp_path / "vit")
    with pytest.raises(UsageError, match="cannot be made for 8 px") as found:
        load(tmp_path / "vit", image_size=8)
    assert "sret-nas train" in str(found.value.hint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_resnet@w.pth", "allowed: test_resnet=w.pth"),
        ("{weights}", "allowed: NAME="),
        ("models/none", "no such folder"),
        ("local-dir:models/none", "no such folder"),
        ("test_resnt", "did you mean 'test_resnet"),
        ("test_resnet=none.pth", "no such file"),
        ("sret_t", "no weights are hosted"),
    ],
)
def test_another_way_to_name_it_is_refused_with_the_allowed_one(
    weights: Path, name: str, message: str
) -> None:
    classes = 1000 if name == "sret_t" else CLASSES
    with pytest.raises(UsageError, match=message) as found:
        load(name.format(weights=weights), num_classes=classes)
    assert len(str(found.value).splitlines()) == 1


def test_weights_out_of_a_folder_are_refused(ours: Path) -> None:
    with pytest.raises(UsageError, match="knows how its images are normalised"):
        load(f"sret_t={ours / 'model.safetensors'}")


def test_weights_that_do_not_fit_or_cannot_be_read(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its weights do not fit"):
        load(f"{VIT}={weights}")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ConfigError, match="no weights to read"):
        load(f"{TIMM}={tmp_path / 'text.pth'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load(tmp_path / "empty")


@pytest.mark.parametrize("kind", [LocalEntryNotFoundError, ConnectionError, TimeoutError])
def test_a_hub_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise kind("nobody\nanswers")

    monkeypatch.setattr(timm, "create_model", silent)
    with pytest.raises(
        SretNasError, match="cannot be fetched from the hub: nobody answers"
    ) as found:
        load(TIMM, num_classes=1000)
    assert found.value.exit_code == 1
    assert "NAME=FILE" in str(found.value.hint)


def test_an_error_in_a_model_is_not_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(timm, "create_model", wrong)
    with pytest.raises(ConfigError, match="size mismatch"):
        load(TIMM, num_classes=1000)


def test_a_fingerprint_is_of_what_is_computed(
    ours: Path, theirs: Path, change: Callable[[Path], None], tmp_path: Path
) -> None:
    one = load(ours).fingerprint
    moved = ours.rename(tmp_path / "moved")
    assert load(moved).fingerprint == one
    both = load(moved, theirs).fingerprint
    assert both == load(theirs, moved).fingerprint
    assert len({one, both, load(theirs).fingerprint}) == 3
    assert load(moved).describe() == {"names": [str(moved)], "fingerprint": one, "notes": []}
    change(moved)
    assert load(moved).fingerprint != one


def _weights(folder: Path) -> None:
    model = sret_nas.load(folder)
    with torch.no_grad():
        model.head.bias[0] += 1
    sret_nas.save(model, folder)


def _normalisation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.4]
    (folder / "config.json").write_text(json.dumps(config))


def _design(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["architecture"]["stages"][0]["groups"] = [1]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(params=[_weights, _normalisation, _design])
def change(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    changed: Callable[[Path], None] = request.param
    return changed


@pytest.mark.cuda(seconds=60)
def test_on_a_gpu_it_waits_for_nothing_and_can_be_recorded(ours: Path) -> None:
    device = torch.device("cuda")
    teacher = load(ours, device=device)
    x = images().to(device)
    labels = torch.eye(CLASSES, device=device)[:4]
    expected = [teacher.targets(x, labels, kind) for kind in KINDS]
    torch.testing.assert_close(expected[0].cpu(), load(ours).probabilities(images()))
    torch.cuda.set_sync_debug_mode("error")
    try:
        teacher.targets(x, labels, "hard")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [teacher.targets(x, labels, kind) for kind in KINDS]
    graph.replay()
    torch.testing.assert_close(found, expected)
