"""Exports: a file is kept if it has run in its own runtime and says what PyTorch says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn

from sret_nas.data import choose_images
from sret_nas.deploy import exporting
from sret_nas.deploy.comparing import compare, latencies
from sret_nas.deploy.export import EXPORTERS, export, find_exporter
from sret_nas.deploy.exporting import Exporter, NotHere, Runner, Wanted
from sret_nas.deploy.opening import Opened, Prepared, eval_views, open_model
from sret_nas.deploy.sample import Sample, take
from sret_nas.errors import SretNasError, UsageError
from sret_nas.model import SReT

Cli = Callable[..., Any]
ROOT = Path(__file__).parents[2]


class Saved(Exporter):
    """A format of ours: the module as torch pickles it, changed by ``spoil`` as it is read."""

    name = "saved"
    suffix = ".saved"
    package = "torch"
    int8 = True

    def __init__(self, spoil: Callable[[Tensor], Tensor] = lambda y: y) -> None:
        self.spoil = spoil
        self.ways: dict[str, Callable[[Tensor], Tensor] | Exception] = {}

    def write(self, model: nn.Module, path: Path, wanted: Wanted) -> None:
        torch.save(model, path)

    def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
        way = self.ways.get(path.stem, self.spoil)
        module = torch.load(path, weights_only=False)
        assert not isinstance(way, Exception)
        return lambda x: way(module(x).detach())

    def quantised(
        self, model: nn.Module, path: Path, wanted: Wanted, calibration_NCSS: Tensor, place: Path
    ) -> Iterator[tuple[str, Path | Exception]]:
        for name, way in self.ways.items():
            if isinstance(way, Exception):
                yield name, way
                continue
            made = place / f"{name}.saved"
            torch.save(model, made)
            yield name, made


@pytest.fixture(scope="module")
def opened(folder: Path) -> Opened:
    return open_model(folder, device="cpu")


@pytest.fixture(scope="module")
def sample(opened: Opened) -> Sample:
    return take(opened, "demo", 28, images=60, calibration=32)


@pytest.fixture
def wanted(opened: Opened) -> Wanted:
    return Wanted(28, 1, classes=opened.classes, preprocessing=opened.preprocessing)


def test_the_sample_is_of_the_validation_images_as_the_model_wants_them(
    opened: Opened, sample: Sample
) -> None:
    chosen = choose_images("demo", "val", image_size=28)
    views = eval_views(opened, chosen.splits[0])
    known = {view.numpy().tobytes(): label for view, label in (views[i] for i in range(2000))}
    assert sample.images.shape == (60, 1, 28, 28)
    assert sample.labels is not None
    for image, label in zip(sample.images, sample.labels.tolist(), strict=True):
        assert known[image.numpy().tobytes()] == label
    trained = {image.numpy().tobytes() for image in sample.calibration}
    assert len(trained) == 32 and not trained & set(known)
    assert torch.bincount(sample.labels).tolist() == [6] * 10


def test_data_of_other_classes_are_compared_and_not_scored(opened: Opened) -> None:
    other = Opened("x", "timm", opened.preprocessing, 7, "cpu", opened.run)
    found = take(other, "demo", 28, images=20)
    assert found.labels is None and any("no accuracy" in said for said in found.notes)


def test_a_good_file_is_kept(
    opened: Opened, sample: Sample, wanted: Wanted, tmp_path: Path
) -> None:
    made = export(opened, Saved(), tmp_path / "a.saved", sample, wanted, threads=1)
    assert [one.name for one in tmp_path.iterdir()] == ["a.saved"]
    assert made.comparison is not None and made.comparison.difference < 1e-5
    assert made.comparison.equal_predictions == 1
    assert made.before.top1 == made.after.top1 and (made.after.top1 or 0) > 0.3
    assert made.before.latency_ms and made.after.latency_ms
    assert made.after.size_bytes == (tmp_path / "a.saved").stat().st_size
    assert made.after.runtime.startswith("torch 2")


def fail(_: Tensor) -> Tensor:
    raise RuntimeError("no kernel for it\nat line 7")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: y + 0.1 * y.abs().max(), "computes something else"),
        (lambda y: y * torch.nan, "not finite"),
        (lambda y: y[:, :9], r"shape \(60, 9\)"),
        (fail, "the file does not run: no kernel for it; it is not kept"),
    ],
)
def test_a_file_that_fails_is_not_left_behind(
    opened: Opened,
    sample: Sample,
    wanted: Wanted,
    tmp_path: Path,
    spoil: Callable[[Tensor], Tensor],
    message: str,
) -> None:
    (tmp_path / "a.saved").write_text("earlier")
    with pytest.raises(SretNasError, match=message) as caught:
        export(opened, Saved(spoil), tmp_path / "a.saved", sample, wanted, threads=1)
    assert caught.value.exit_code == 1 and len(str(caught.value).splitlines()) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["a.saved"]
    assert (tmp_path / "a.saved").read_text() == "earlier"


def test_what_cannot_run_here_is_said(
    opened: Opened,
    sample: Sample,
    wanted: Wanted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    cli: Cli,
) -> None:
    def not_here(self: object, path: Path, wanted: Wanted, threads: int) -> Runner:
        raise NotHere("it predicts on the moon alone")

    monkeypatch.setattr(Saved, "open", not_here)
    made = export(opened, Saved(), tmp_path / "a.saved", sample, wanted, threads=1)
    assert made.comparison is None and made.after.top1 is None
    assert made.not_run == "it predicts on the moon alone"
    monkeypatch.setitem(EXPORTERS, "saved", Saved())
    path = tmp_path / "b.saved"
    result = cli("export", folder, "--to", "saved", "--out", path, "--images", 10)
    assert result.code == 0 and path.exists()
    assert "not run: it predicts on the moon alone" in result.out


def one_wrong(share: float) -> Callable[[Tensor], Tensor]:
    """Spoils the predictions of a share of the images."""

    def spoil(y_BK: Tensor) -> Tensor:
        y_BK = y_BK.clone()
        count = round(share * len(y_BK))
        y_BK[:count] = y_BK[:count].roll(1, dims=1)
        return y_BK

    return spoil


def test_of_the_ways_to_int8_the_one_that_loses_least_is_kept(
    opened: Opened, sample: Sample, wanted: Wanted, tmp_path: Path
) -> None:
    ways = Saved()
    ways.ways = {
        "poor": one_wrong(0.5),
        "broken": RuntimeError("no such operator"),
        "good": one_wrong(0.02),
        "does-not-run": fail,
        "bad": one_wrong(1.0),
    }
    made = export(opened, ways, tmp_path / "a.saved", sample, wanted, int8=True, threads=1)
    assert made.chosen == "good"
    found = {one.name: one for one in made.candidates}
    assert found["broken"].error == "no such operator"
    assert found["does-not-run"].error is not None
    assert found["good"].loss < found["poor"].loss < found["bad"].loss
    assert made.before.dtype == "fp32" and made.after.dtype == "int8"
    assert made.after.top1 == found["good"].top1 and made.lost == found["good"].loss
    assert (tmp_path / "a.saved").exists()


def test_more_than_a_point_lost_is_the_first_line(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = Saved()
    ways.ways = {"poor": one_wrong(0.5)}
    monkeypatch.setitem(EXPORTERS, "saved", ways)
    common = ("export", folder, "--to", "saved", "--int8", "--images", 60)
    result = cli(*common, "--out", tmp_path / "a.saved")
    assert re.match(r"\d+\.\d points of top-1 lost: \d", result.out)
    ways.ways = {"good": lambda y: y}
    result = cli(*common, "--out", tmp_path / "a.saved")
    assert "points of top-1 lost" not in result.out and "good *" in result.out


def test_no_way_to_int8_is_an_error_and_leaves_nothing(
    opened: Opened, sample: Sample, wanted: Wanted, tmp_path: Path
) -> None:
    ways = Saved()
    ways.ways = {"broken": RuntimeError("no such operator")}
    with pytest.raises(SretNasError, match="broken: no such operator"):
        export(opened, ways, tmp_path / "a.saved", sample, wanted, int8=True, threads=1)
    assert list(tmp_path.iterdir()) == []


def test_a_fixed_batch_is_filled_up() -> None:
    class Fixed(Saved):
        def open(self, path: Path, wanted: Wanted, threads: int) -> Runner:
            def run(x_BCSS: Tensor) -> Tensor:
                assert len(x_BCSS) == 4
                return x_BCSS.flatten(1)

            return run

    x_BCSS = torch.arange(10.0)[:, None, None, None]
    run = Fixed().runner(Path("x"), Wanted(1, 1, batch=4), 1)
    assert run(x_BCSS).flatten().tolist() == list(range(10))


def test_latencies_are_of_all_that_run() -> None:
    found = latencies({"a": lambda x: x, "b": lambda x: x + 1}, torch.zeros(1, 1, 2, 2), 1)
    assert {name: one is not None and one.median_s > 0 for name, one in found.items()} == {
        "a": True,
        "b": True,
    }


def test_a_comparison_is_of_all_images() -> None:
    wanted_NK = torch.tensor([[1.0, 0], [0, 1], [3, 0], [0, 1]])
    found_NK = torch.tensor([[1.0, 0], [0, 1], [2.5, 0], [1, 0.5]])
    found = compare(found_NK, wanted_NK, torch.tensor([0, 1, 1, 1]))
    assert (found.difference, found.scale) == (1.0, 3.0)
    assert (found.equal_predictions, found.top1) == (0.75, 0.5)


def test_what_was_timed_is_noted_in_the_model_folder(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPORTERS, "saved", Saved())
    place = tmp_path / "m"
    shutil.copytree(folder, place)
    common = ("export", place, "--to", "saved", "--images", 10)
    assert cli(*common).code == 0
    assert (place / "model.saved").exists() and not (place / "metrics.json").exists()
    (place / "metrics.json").write_text('{"schema": 1, "epochs": 3}')
    assert cli(*common).code == 0
    metrics = json.loads((place / "metrics.json").read_text())
    (timed,) = metrics["latency"]
    assert metrics["epochs"] == 3
    assert (timed["runtime"], timed["dtype"], timed["file"]) == ("torch", "fp32", "model.saved")
    assert 0 < timed["median_ms"] <= timed["p95_ms"]
    assert "model.saved" in (place / "README.md").read_text()
    assert cli(*common, "--out", tmp_path / "b.saved").code == 0
    assert json.loads((place / "metrics.json").read_text()) == metrics


# --- the command, and files for real ----------------------------------------------------------


@pytest.fixture(scope="module")
def onnx_file(opened: Opened, sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "small.onnx"
    wanted = Wanted(28, 1, classes=opened.classes, preprocessing=opened.preprocessing)
    made = export(opened, find_exporter("onnx"), path, sample, wanted, threads=1)
    assert made.comparison is not None and made.comparison.equal_predictions == 1
    return path


def test_int8_by_the_command(folder: Path, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    result = cli("export", folder, "--int8", "--out", path, "--images", 100, "--json")
    assert result.code == 0, result.err
    assert f"next    sret-nas evaluate {path} --data " in result.err
    found = result.json
    assert found["file"] == str(path) and found["size_bytes"] == path.stat().st_size
    assert found["dtype"] == "int8" and found["images"] == 100
    names = [one["name"] for one in found["candidates"]]
    assert names == ["dynamic", "static-all", "static-products", "static-linear"]
    assert all(one["error"] is None and one["latency_ms"] > 0 for one in found["candidates"])
    assert found["chosen"] in names
    assert found["top1_before"] - found["top1_after"] == pytest.approx(found["lost"])
    assert 0 < found["equal_predictions"] <= 1 and found["difference"] > 0
    assert found["before"]["runtime"].startswith("onnxruntime ")
    assert found["latency_before_ms"] > 0 and found["latency_after_ms"] > 0
    assert "threads" in found and found["device"]
    again = open_model(path)
    assert again.classes == open_model(folder).classes


def test_a_file_for_torch_needs_none_of_our_code(
    opened: Opened, sample: Sample, wanted: Wanted, tmp_path: Path
) -> None:
    path = tmp_path / "small.pt2"
    export(opened, find_exporter("torch"), path, sample, wanted, threads=1)
    with zipfile.ZipFile(path) as parts:
        stored = b"".join(parts.read(name) for name in parts.namelist())
    assert str(ROOT).encode() not in stored
    torch.save(sample.images[:3], tmp_path / "x.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['sret_nas'] = sys.modules['timm'] = None\n"
        f"x = torch.load({str(tmp_path / 'x.pt')!r})\n"
        f"print(torch.export.load({str(path)!r}).module()(x).argmax(1).tolist())\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == opened(sample.images[:3]).argmax(1).tolist()


def test_torchao_makes_int8_of_a_program(
    opened: Opened, sample: Sample, wanted: Wanted, tmp_path: Path
) -> None:
    pytest.importorskip("torchao")
    path = tmp_path / "small.pt2"
    made = export(opened, find_exporter("torch"), path, sample, wanted, int8=True, threads=1)
    assert made.chosen == "dynamic" and made.comparison is not None
    assert made.comparison.difference > 0.01
    assert made.comparison.equal_predictions > 0.6  # a model of 4 channels a head
    assert path.exists()


@pytest.mark.parametrize("to", ["executorch", "openvino", "coreml"])
def test_other_ecosystems_where_they_are_installed(
    opened: Opened, sample: Sample, wanted: Wanted, tmp_path: Path, to: str
) -> None:
    """Not among what the tests install: each has an extra of its name, and is large."""
    try:
        exporter = find_exporter(to)
    except UsageError as error:
        assert error.hint == f'pip install "sret_nas[{to}]"'
        pytest.skip(str(error))
    made = export(opened, exporter, tmp_path / f"a{exporter.suffix}", sample, wanted, threads=1)
    if made.not_run is None:
        assert made.comparison is not None and made.comparison.equal_predictions == 1
    else:
        assert to == "coreml" and sys.platform != "darwin"


@pytest.mark.parametrize("to", ["executorch", "openvino", "coreml"])
def test_the_extra_of_a_missing_package_is_named(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    for name in EXPORTERS[to].needs:
        monkeypatch.setitem(sys.modules, name, None)
    result = cli("export", folder, "--to", to)
    assert result.code == 2
    assert f'hint: pip install "sret_nas[{to}]"' in result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "tensorrt"], "--to: given 'tensorrt'; allowed: onnx, torch, executorch"),
        (["--int8", "--fp16"], "given --int8 and --fp16"),
        (["--out", "a.pt"], "--out: given a.pt; allowed with --to onnx: *.onnx"),
        (["--out", "none/a.onnx"], "--out: there is no folder none"),
        (["--to", "torch", "--opset", "20"], "--opset with --to torch"),
        (["--opset", "5", "--images", "5"], "opset: given 5; allowed: 18 to 23"),
        (["--data", "nowhere"], "'nowhere' is neither a folder nor"),
        (["--size", "0"], "'--size': Input should be greater than or equal to 4"),
        (["--size", "-16"], "'--size': Input should be greater than or equal to 4"),
        (["--size", "1000000"], "'--size': Input should be less than or equal to 4096"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    folder: Path, cli: Cli, options: list[str], message: str
) -> None:
    before = sorted(folder.iterdir())
    result = cli("export", folder, *options)
    assert result.code == 2
    assert message in result.err and result.out == ""
    assert sorted(folder.iterdir()) == before


def test_a_size_that_a_model_of_timms_does_not_take_is_refused(tmp_path: Path, cli: Cli) -> None:
    model = timm.create_model("test_vit", num_classes=10)
    save_for_hf(model, tmp_path / "vit", safe_serialization=True)
    before = sorted((tmp_path / "vit").iterdir())
    result = cli("export", tmp_path / "vit", "--size", 30, "--images", 5)
    assert result.code == 2 and "vit: takes no images of 30 px: " in result.err
    assert sorted((tmp_path / "vit").iterdir()) == before


def test_an_onnx_file_is_exported_already(onnx_file: Path, cli: Cli) -> None:
    result = cli("export", onnx_file)
    assert result.code == 2 and "is exported already" in result.err


def test_random_orders_are_refused_with_the_way_out(tmp_path: Path, cli: Cli, model: SReT) -> None:
    import sret_nas

    data = model.arch.to_dict() | {"permute": "random"}
    data["stages"][0]["groups"] = [7, 7]
    other = sret_nas.create_model(data)
    sret_nas.save(other, tmp_path / "m")
    result = cli("export", tmp_path / "m", "--images", 5)
    assert result.code == 2
    assert "permute: random draws" in result.err and "permute: fixed" in result.err


def test_several_sizes_are_several_files(
    folder: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPORTERS, "saved", Saved())
    monkeypatch.setattr(
        Saved, "write", lambda self, m, p, w: torch.save(exporting.base.frozen(m, w.side), p)
    )
    result = cli(
        "export", folder, "--to", "saved", "--out", tmp_path / "a.saved", "--images", 10,
        "--size", 28, "--size", 56, "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a-28.saved", "a-56.saved"]
    assert [one["image_size"] for one in result.json["files"]] == [28, 56]


# --- without PyTorch --------------------------------------------------------------------------

BLOCK = textwrap.dedent(
    """
    import sys
    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("torch", "timm", "sret_nas", "torchvision", "onnx"):
                raise ImportError(f"{name} is not for this script")
    sys.meta_path.insert(0, Refuse())
    """
)


def test_the_script_of_the_docs_predicts_with_onnxruntime_alone(
    onnx_file: Path, opened: Opened, tmp_path: Path
) -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    script = next(
        code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "sys.argv" in code
    )
    (tmp_path / "predict.py").write_text(BLOCK + script)
    picture = choose_images("demo", "val", image_size=28).splits[0]
    views = eval_views(opened, picture)
    for at, size in ((0, (28, 28)), (5, (61, 40))):
        image = views.items.picture(int(views.indices[at])).resize(size)
        image.save(tmp_path / "image.png")
        done = subprocess.run(
            [sys.executable, tmp_path / "predict.py", onnx_file, tmp_path / "image.png"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        name, share = done.stdout.splitlines()[0].split("\t")
        shares = opened(Prepared(opened.preprocessing)(image)[None]).softmax(1)[0]
        assert name == opened.label(int(shares.argmax()))
        assert float(share) == pytest.approx(float(shares.max()), abs=2e-3)
        assert len(done.stdout.splitlines()) == 5


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom sret_nas.cli.main import run\n"
        "run(['export', '--help'])\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
