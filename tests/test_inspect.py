import base64
import time
from io import BytesIO

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from toy import write_synthdepth

from synthdepth.data import colour_depth, open_data
from synthdepth.inspect import COLOUR_MAPS, DepthInspector, has_frontend
from synthdepth.look import GAP, HEAD, Looks, compose
from synthdepth.metrics import METRICS

WIDGET = 'application/vnd.jupyter.widget-view+json'


def near(rgb): return 2 + rgb.mean(1)


def far(rgb): return 6 + rgb.mean(1)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'toy', scenes=3, views=2))


def pixels(inspector) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(inspector.picture)))


def test_nothing_is_read_before_it_is_looked_at(data, monkeypatch):
    read, original = [], type(data).__getitem__
    monkeypatch.setattr(type(data), '__getitem__', lambda self, i: read.append(i) or original(self, i))
    inspector = DepthInspector(data, {'near': near})
    assert read == []
    inspector.widget
    assert read == [0]
    inspector.step()
    inspector.step(-1)
    inspector.choose(cmap='magma')
    assert read == [0, 1]


def test_predictions_are_cached_and_bounded(data):
    calls = []
    looks = Looks(data, {'m': lambda rgb: calls.append(1) or near(rgb)}, keep=2)
    for i in (0, 1, 0, 2, 0): looks[i]
    assert len(calls) == 3
    looks[1]
    assert len(calls) == 4 and len(looks._kept) == 2 and sorted(looks.scores['m']) == [0, 1, 2]


@pytest.mark.parametrize('cmap', COLOUR_MAPS)
def test_panels_share_one_range_and_invalid_is_gray(data, cmap):
    look = Looks(data, {'near': near})[0]
    limits, width = look.depth_limits(), look.depth.shape[1]
    page = np.asarray(compose(look, cmap=cmap, width=width))
    h, step = len(look.depth), width + GAP
    truth, pred = (page[HEAD:HEAD+h, k*step:k*step+width] for k in (1, 2))
    np.testing.assert_array_equal(truth[look.valid], colour_depth(look.depth, look.valid, *limits, cmap)[look.valid])
    np.testing.assert_array_equal(pred, colour_depth(look.shown['near'], None, *limits, cmap))
    assert not look.valid.all()
    assert {tuple(c) for c in truth[~look.valid]} == ({(128,)*3, (80,)*3} if cmap == 'gray' else {(128,)*3})


def test_error_is_red_where_too_near_and_blue_where_too_far(data):
    look = Looks(data, {'near': lambda rgb: torch.full_like(rgb[:, 0], .1), 'far': far})[0]
    page, (h, w) = np.asarray(compose(look, width=64)), look.depth.shape
    row, column = np.argwhere(look.counted['near'])[0]
    red = page[HEAD + row, 3*(w + GAP) + column]
    assert look.error('near')[row, column] < 0 and red[0] > red[2]
    row, column = np.argwhere((look.error('far') > 1) & look.counted['far'])[0]
    blue = page[HEAD + (HEAD + h + GAP) + row, 3*(w + GAP) + column]
    assert blue[2] > blue[0]


def test_metres_under_a_pixel(data):
    inspector = DepthInspector(data, {'near': near})
    inspector.choose(position=4)
    sample = data[3]
    row, column = np.argwhere(sample.valid)[-1]
    assert inspector.at(row, column) == {'truth': float(sample.depth[row, column]),
                                         'near': pytest.approx(float(inspector.look.shown['near'][row, column]))}
    row, column = np.argwhere(~sample.valid)[0]
    assert inspector.at(row, column)['truth'] is None


def test_stepping_stops_at_both_ends(data):
    inspector = DepthInspector(data)
    inspector.widget
    inspector.step(-1)
    assert inspector.position == 1
    for _ in range(9): inspector.step()
    assert inspector.position == 6 and inspector.look.index == 5


def test_scene_filter_and_worst_first(data):
    inspector = DepthInspector(data, {'near': near, 'far': far})
    inspector.widget
    inspector.choose(sort='d1')
    assert '1 of 6 captures are scored' in inspector.message
    inspector.score_all()
    assert inspector.message == ''
    for name in METRICS:
        for model in ('near', 'far'):
            inspector.choose(sort=name, by=model)
            values = [inspector.looks.scores[model][i][name] for i in inspector.order]
            assert values == sorted(values, reverse=not METRICS[name].higher_is_better), (name, model)
            assert inspector.look.index == inspector.order[0]
    scene = data.captures[2].scene
    inspector.choose(scene=scene)
    assert sorted(inspector.order) == [2, 3] and len(inspector.order) == 2 and inspector.look.index in (2, 3)


def test_fixed_colours_stay_while_stepping(data):
    inspector = DepthInspector(data, {'near': near})
    inspector.widget
    fitted = inspector.limits
    assert inspector.step().limits != fitted and inspector.fit
    inspector.choose(limits=(1., 4.))
    assert inspector.step().limits == (1., 4.) and not inspector.fit
    inspector.choose(limits=(2., 2.))
    assert inspector.look is not None and inspector.message == ''


def test_view_and_code_move_each_other(data):
    inspector = DepthInspector(data, {'near': near, 'far': far})
    assert inspector.controls is None
    inspector.widget
    c = inspector.controls
    c.next.click()
    assert inspector.position == c.position.value == 2 and c.picture.value == inspector.picture
    c.position.value = 5
    assert inspector.look.index == 4
    c.previous.click()
    assert c.position.value == 4
    c.score_all.click()
    assert c.progress.value == c.progress.max == 2 and c.progress.layout.visibility == 'hidden'
    c.sort.value = 'rmse'
    assert inspector.order[0] == max(range(6), key=lambda i: inspector.looks.scores['near'][i]['rmse'])
    inspector.choose(scene=data.captures[0].scene, by='far')
    assert (c.scene.value, c.by.value, c.position.max, c.position.value) == (data.captures[0].scene, 'far', 2, 1)
    c.limits.value = (1, 3)
    assert inspector.limits == (1, 3) and not c.fit.value
    c.fit.value = True
    assert inspector.limits == inspector.look.depth_limits() == pytest.approx(c.limits.value, abs=.01)
    assert c.caption.value and c.table.value and c.picture.tooltip == inspector.description


def test_empty_choice_is_a_message(data):
    inspector = DepthInspector(data)
    inspector.widget
    inspector.choose(scene='nowhere')
    assert "no capture of scene 'nowhere'" in inspector.message == inspector.controls.message.value
    assert inspector.at(0, 0) == {}
    assert inspector.step().look is None and inspector.choose(scene=None).look.index == 0
    with pytest.raises(TypeError, match='no choice colour'): inspector.choose(colour='red')


def test_interrupted_scoring_keeps_what_it_has(data):
    calls = []

    def slow(rgb):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return near(rgb)
    inspector = DepthInspector(data, {'slow': slow}).score_all()
    assert sorted(inspector.looks.scores['slow']) == [0, 1]


def test_the_prediction_shown_is_the_one_scored(data):
    class Disparity(torch.nn.Module):
        predicts = 'disparity'

        def forward(self, rgb): return 5 + 3*rgb.mean(1)
    look = Looks(data, {'d': Disparity()}, protocol='affine_disparity')[0]
    m = look.counted['d']
    assert look.scores['d']['rmse'] == pytest.approx(np.sqrt((look.error('d')[m]**2).mean()), rel=1e-4)
    look = Looks(data, {'d': Disparity()})[0]
    assert 'd' not in look.shown and 'choose an alignment' in look.problems[0]


def test_published_protocol_fits_its_size(data):
    look = Looks(data, {'near': near}, protocol='published')[0]
    assert look.depth.shape == (256, 256) and (look.shown['near'] == 10).all()


def broken(tmp_path, what):
    root = write_synthdepth(tmp_path/'d', scenes=2, views=1)
    data = open_data(root)
    c = data.captures[0]
    if what == 'size': Image.new('RGB', (30, 20)).save(c.rgb)
    elif what == 'missing': c.depth.unlink()
    elif what == 'truncated': c.rgb.write_bytes(c.rgb.read_bytes()[:200])
    elif what == 'invalid': Image.fromarray(np.zeros((48, 64), np.uint16)).save(c.depth)
    return data.subset([]) if what == 'empty' else data


@pytest.mark.parametrize('what, said', [('size', 'expected equal height x width'), ('missing', 'no such file'),
                                        ('truncated', 'not a whole picture'), ('invalid', 'no pixel has a depth'),
                                        ('empty', 'nothing to show: no capture')])
def test_bad_data_is_a_message_in_the_view(tmp_path, what, said):
    data = broken(tmp_path, what)
    inspector = DepthInspector(data, {'near': near})
    inspector.widget
    assert said in inspector.message
    assert len(pixels(inspector)) > 0 and inspector._repr_mimebundle_()[0]['text/plain']
    inspector.step()
    inspector.score_all()
    if what != 'empty':
        inspector.choose(position=2)
        assert inspector.look.index == 1 and said not in inspector.message


def raises(rgb): raise RuntimeError('<b>out of memory</b>')


@pytest.mark.parametrize('model, said', [
    (lambda rgb: torch.full_like(rgb[:, 0], torch.nan), 'not a finite number at'),
    (lambda rgb: rgb[:, 0, ::2], 'predicted shape (1, 24, 64), expected (1, 48, 64)'),
    (raises, 'RuntimeError: &lt;b&gt;out of memory')])
def test_bad_model_is_a_message_beside_the_others(data, model, said):
    inspector = DepthInspector(data, {'bad': model, 'good': near})
    inspector.widget
    assert said in inspector.message
    assert list(inspector.look.scores) == ['good']
    inspector.choose(sort='rmse')
    inspector.score_all()
    assert '0 of 6 captures are scored' in inspector.message


def test_a_mended_file_is_seen(tmp_path):
    data = broken(tmp_path, 'missing')
    inspector = DepthInspector(data)
    inspector.widget
    write_synthdepth(tmp_path/'d', scenes=2, views=1)
    inspector.draw()
    assert inspector.look.index == 0 and inspector.message == ''


def test_text_stands_for_the_picture(data):
    inspector = DepthInspector(data, {'near': near})
    bundle, metadata = inspector._repr_mimebundle_()
    assert base64.b64decode(bundle['image/png']) == inspector.picture
    assert 'near: d1' in metadata['image/png']['alt'] == inspector.description


def test_frontend_can_be_forced(monkeypatch):
    assert not has_frontend()
    monkeypatch.setenv('SYNTHDEPTH_WIDGETS', '1')
    assert has_frontend()
    monkeypatch.setenv('SYNTHDEPTH_WIDGETS', '0')
    monkeypatch.setenv('SERVER_SOFTWARE', 'voila/0.5')
    assert not has_frontend()


class Person(NotebookClient):
    "Runs a notebook as a frontend with a person in front of it does: it can be asked for input."
    async def async_start_new_kernel_client(self):
        client = await super().async_start_new_kernel_client()
        client.allow_stdin = True
        return client


CELL = '''from synthdepth.data import open_data
from synthdepth.inspect import DepthInspector
DepthInspector(open_data({root!r}), {{'near': lambda rgb: 2 + rgb.mean(1)}})'''


def executed(root, client):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(root=str(root)))])
    return client(nb, timeout=120, kernel_name='python3').execute()


def test_headless_notebook_stores_a_picture(data):
    nb = executed(data.root, NotebookClient)
    outputs = nb.cells[0].outputs
    assert [sorted(o.data) for o in outputs] == [['image/png', 'text/plain'], ['text/html', 'text/plain']]
    assert Image.open(BytesIO(base64.b64decode(outputs[0].data['image/png']))).width > 1000
    page, _ = HTMLExporter().from_notebook_node(nb)
    described = outputs[0].metadata['image/png']['alt']
    assert described in outputs[1].data['text/html'] and described in page and 'data:image/png;base64,' in page
    assert 'widgets' not in nb.metadata and WIDGET not in str(outputs)


def test_live_notebook_stores_the_picture_that_the_widget_hides(data):
    nb = executed(data.root, Person)
    picture, widget = nb.cells[0].outputs
    assert 'image/png' in picture.data and 'alt="' in picture.data['text/html'] and WIDGET not in picture.data
    state = nb.metadata.widgets['application/vnd.jupyter.widget-state+json']['state']
    assert widget.data[WIDGET]['model_id'] in state
    hidden = picture.data['text/html'].split('class="')[1].split('"')[0]
    assert any(f'.{hidden} {{ display: none }}' in str(m['state'].get('value', '')) for m in state.values())


def test_step_is_quick(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'big', scenes=2, views=1, size=(480, 640)))
    inspector = DepthInspector(data, {'near': near})
    inspector.widget
    inspector.step()
    times = []
    for by in (-1, 1)*4:
        start = time.perf_counter()
        inspector.step(by)
        times.append(time.perf_counter() - start)
    assert min(times) < .15, times
