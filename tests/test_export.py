"A model as one ONNX graph: any size, any number of pictures, with or without their cameras."
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small import small
from toy import write_synthdepth
from typer.testing import CliRunner

from synthdepth import cli
from synthdepth.evaluation import ConstantDepth, predict_pictures
from synthdepth.inspector.predictor import PredictPanel
from synthdepth.models import ExportError, OnnxDepth, create_model, export_model, faster
from synthdepth.models import export as exporting
from synthdepth.models.tiny import FORMER

pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.usefixtures('one_thread')

NAMES = {'tiny': {}, 'former tiny': FORMER, 'timm:mobilenetv3_small_050': {}, 'fastdepth': {}}
SIZES = [(1, 96, 128), (3, 96, 128), (2, 33, 47), (1, 224, 224), (1, 256, 256), (2, 480, 640),
         (1, 640, 480), (1, 40, 300)]


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "Every kind of model that can be exported, and its graph; each is made once."
    torch.set_num_threads(1)
    place, made = tmp_path_factory.mktemp('graphs'), {}

    def get(name):
        if name not in made:
            model = small(name.removeprefix('former '), **NAMES[name])
            file = export_model(model, place/f'{len(made)}.onnx')
            made[name] = model, OnnxDepth(file, model), file
        return made[name]

    return get


def smooth(n, h, w):
    coarse = torch.rand(n, 3, 9, 12, generator=torch.Generator().manual_seed(h + w))
    return torch.nn.functional.interpolate(coarse, (h, w), mode='bicubic').clamp(0, 1)


def cameras(n, width): return torch.tensor([[1.1*width, width, width/2, 9.]]*n)


@torch.no_grad()
def difference(model, graph, rgb, **inputs):
    here, there = model(rgb, **inputs), graph(rgb, **inputs)
    assert there.shape == here.shape and there.dtype == torch.float32
    return ((there - here).abs()/here.clamp(min=.1)).max().item()


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('shape', SIZES, ids=str)
def test_graphs_answer_as_their_models_at_any_size(exported, name, shape):
    model, graph, _ = exported(name)
    assert difference(model, graph, smooth(*shape)) < 1e-4
    assert graph.needs == model.needs and graph.predicts == 'metric' and graph.name == model.name


def test_the_camera_is_an_input_and_nan_an_unknown_one(exported):
    model, graph, _ = exported('tiny')
    rgb, told = smooth(3, 60, 80), cameras(3, 80.)
    assert difference(model, graph, rgb, intrinsics=told) < 1e-4
    told[1] = torch.nan
    assert difference(model, graph, rgb, intrinsics=told) < 1e-4
    assert torch.allclose(graph(rgb, told)[1], graph(rgb)[1], rtol=1e-5)
    assert torch.allclose(graph(rgb, 2*cameras(3, 80.)), 2*graph(rgb, cameras(3, 80.)), rtol=1e-5)


def test_the_file_says_what_it_holds(exported):
    import onnx
    _, _, file = exported('tiny')
    graph = onnx.load(file)
    about = {p.key: p.value for p in graph.metadata_props}
    assert about['model'] == 'tiny' and about['predicts'] == 'metric'
    assert [x.name for x in graph.graph.input] == ['rgb', 'intrinsics']
    assert [x.name for x in graph.graph.output] == ['depth']
    assert file.stat().st_size < 20e6 and not list(file.parent.glob('*.data'))


def test_a_saved_model_is_exported_by_the_command(tmp_path):
    folder = small('tiny', camera='none').save(tmp_path/'mine')
    done = CliRunner().invoke(cli.app, ['export', str(folder), str(tmp_path/'a/mine.onnx')])
    assert done.exit_code == 0 and 'written:' in done.output, done.exception
    assert OnnxDepth(tmp_path/'a/mine.onnx').needs == ('rgb',)


@pytest.mark.parametrize('name, says', [
    ('hybriddepth', 'needs focal, focus'), ('glpn-nyu', 'at_work'), ('zoedepth', 'at_work')])
def test_others_say_why_not(name, says, tmp_path):
    with pytest.raises(ExportError, match=f'{name} cannot be exported: .*{says}'):
        export_model(small(name), tmp_path/'x.onnx')
    assert not list(tmp_path.iterdir())


def test_what_is_no_network_says_so(tmp_path):
    with pytest.raises(ExportError, match='ConstantDepth cannot be exported: it is no network'):
        export_model(ConstantDepth(2.), tmp_path/'x.onnx')


def test_a_missing_exporter_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, 'find_spec', lambda name: None if name == 'onnxscript' else 1)
    with pytest.raises(ExportError, match='pip install onnxscript'):
        export_model(small('tiny'), tmp_path/'x.onnx')


def test_what_torch_cannot_export_is_said(monkeypatch, tmp_path):
    model = small('tiny')
    monkeypatch.setattr(type(model), 'own_depth',
                        lambda self, features: features[0] if features[0].sum() > 0 else 0)
    with pytest.raises(ExportError, match='tiny cannot be exported: torch says'):
        export_model(model, tmp_path/'x.onnx')


def test_a_graph_that_differs_is_not_written(exported, monkeypatch, tmp_path):
    _, _, file = exported('tiny')
    with pytest.raises(ExportError, match='its graph differs by'):
        exporting.check_graph(create_model('tiny', 'none', size=(96, 128)), file.read_bytes())


# --- where it stands in for its model


def test_a_graph_is_made_where_it_pays_and_then_kept(exported, monkeypatch, tmp_path):
    model, _, file = exported('tiny')
    monkeypatch.setattr(exporting, 'export_graph', lambda model: pytest.fail('made again'))
    assert faster(model, 3, tmp_path) is model
    kept = tmp_path/exporting.graph_key(model)/'graph.onnx'
    kept.parent.mkdir()
    kept.write_bytes(file.read_bytes())
    assert isinstance(faster(model, 1, tmp_path), OnnxDepth)
    other = small('tiny', bins=8)
    assert faster(other, 1, tmp_path) is other
    kept.write_bytes(b'torn')
    assert faster(model, 1, tmp_path) is model


def test_without_onnx_runtime_nothing_changes(exported, monkeypatch, tmp_path):
    model, _, _ = exported('tiny')
    monkeypatch.setattr(exporting, 'find_spec', lambda name: None)
    assert faster(model, 10**6, tmp_path) is model
    wall = ConstantDepth(2.)
    assert faster(wall, 10**6, tmp_path) is wall


def test_maps_by_onnx_runtime_are_the_same(exported, tmp_path, monkeypatch):
    model, graph, _ = exported('tiny')
    root = write_synthdepth(tmp_path/'set', scenes=2, views=2)
    module = sys.modules[predict_pictures.__module__]
    asked = []
    monkeypatch.setattr(module, 'faster', lambda model, n: asked.append(n) or graph)
    for fast in (False, True):
        predict_pictures(model, [root], tmp_path/str(fast), 'tiny', ['npy'], fast=fast)
    plain, quick = (sorted(Path(tmp_path/str(fast)).rglob('*.npy')) for fast in (False, True))
    assert asked == [4] and len(plain) == 4
    for a, b in zip(plain, quick):
        assert np.allclose(np.load(a), np.load(b), rtol=1e-4)


def test_the_panel_asks_a_kept_graph(exported, tmp_path, monkeypatch):
    model, graph, _ = exported('tiny')
    module = sys.modules[PredictPanel.__module__]
    monkeypatch.setattr(module, 'faster', lambda model: graph)
    picture = (smooth(1, 48, 64)[0].permute(1, 2, 0)*255).byte().numpy()
    quick, plain = (PredictPanel({'tiny': model}, fast=fast).predict(picture).comparison
                    for fast in (True, False))
    assert np.allclose(quick.shown['tiny'], plain.shown['tiny'], rtol=1e-4)
    assert quick.problems == []
