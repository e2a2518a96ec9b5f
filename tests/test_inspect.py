import base64
import inspect
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from io import BytesIO

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from toy import write_synthdepth

from synthdepth.colour import NO_DEPTH, colour_depth
from synthdepth.data import open_data, split_by_scene
from synthdepth.evaluation import GAP, HEAD, ConstantDepth, panel_page, score_pictures
from synthdepth.inspector import COLOUR_MAPS, PAGE_LAYOUTS, Comparisons, DepthInspector
from synthdepth.inspector import PredictPanel, TrainingMonitor, change_conditions, colour_limits
from synthdepth.inspector import decode_depth, has_frontend, open_run, predict_picture
from synthdepth.inspector import show_folder, write_page
from synthdepth.inspector.comparisons import ENTRY, SHARES
from synthdepth.inspector.folders import model_titles
from synthdepth.inspector.listening import PortError, listen, own_kernels
from synthdepth.inspector.server import serve, server_environment
from synthdepth.inspector.transport import LARGEST, PIECE
from synthdepth.metrics import METRICS
from synthdepth.models import create_model
from synthdepth.training import RECIPES, make_splits

WIDGET = 'application/vnd.jupyter.widget-view+json'


def near(rgb): return 2 + rgb.mean(1)


def far(rgb): return 6 + rgb.mean(1)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return open_data(write_synthdepth(tmp_path_factory.mktemp('toy')/'toy', scenes=3, views=2))


class Page:
    "What the comparisons does, without one."
    def __init__(self, shown):
        self.shown, self.got = shown, []
        shown.widget.send = lambda message, buffers=None: self.got.append((message, buffers or []))
        self.ask(kind='ready')

    def ask(self, *buffers, **message):
        self.shown.receive(None, message, list(buffers))
        return self

    def last(self, kind) -> tuple[dict, list]:
        return next((m, b) for m, b in reversed(self.got) if m['kind'] == kind)


def pixels(inspector) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(inspector.picture)))


def test_nothing_is_read_before_it_is_looked_at(data, monkeypatch):
    read, original = [], type(data).__getitem__
    def noted(self, i): return read.append(i) or original(self, i)
    monkeypatch.setattr(type(data), '__getitem__', noted)
    inspector = DepthInspector(data, {'near': near})
    assert read == []
    page = Page(inspector)
    assert read == [0] and page.last('setup')[0]['n'] == 6
    inspector.step()
    inspector.step(-1)
    inspector.choose(cmap='magma')
    assert read == [0, 1]
    page.ask(kind='ahead', position=3, version=0)
    page.ask(kind='show', position=3)
    assert read == [0, 1, 2]


def test_predictions_are_cached_and_bounded(data):
    calls = []
    each = 48*64*4 + ENTRY  # bytes of one prediction
    memory = 2.5*each/1e6/SHARES['predictions']
    looks = Comparisons(data, {'m': lambda rgb: calls.append(1) or near(rgb)}, memory=memory)
    for i in (0, 1, 0, 2, 0): looks[i]
    assert len(calls) == 3
    looks[1]
    assert len(calls) == 4 and len(looks.raw) == 2 and sorted(looks.scores['m']) == [0, 1, 2]


def held(view) -> int:
    "Bytes of everything that a view keeps, wherever it is."
    seen, found, todo = set(), 0, [vars(view)]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (str, type, torch.nn.Module)): continue
        seen.add(id(thing))
        if isinstance(thing, np.ndarray): found += thing.nbytes if thing.base is None else 0
        elif isinstance(thing, torch.Tensor): found += thing.nbytes
        elif isinstance(thing, (bytes, memoryview)): found += memoryview(thing).nbytes
        elif isinstance(thing, dict): todo += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set)): todo += thing
        elif hasattr(thing, '__dict__'): todo.append(vars(thing))
    return found


@pytest.mark.parametrize('size', [(48, 64), (480, 640)])
def test_memory_is_bounded_by_bytes_whatever_the_size(tmp_path, size):
    data = open_data(write_synthdepth(tmp_path/'d', scenes=6, views=2, size=size))
    pixels = size[0]*size[1]
    memory = 8*17*pixels/1e6  # about eight captures of 17 bytes a pixel
    page = Page(DepthInspector(data, {'near': near, 'far': far}, memory=memory))
    view = page.shown
    for position in range(1, 13): page.ask(kind='show', position=position)
    page.got.clear()
    caches = view.encodings.recent, view.comparisons.raw, view.comparisons.recent
    assert all(0 < len(cache) < 12 for cache in caches[:2])
    assert sum(cache.bytes for cache in caches) <= 1e6*memory
    kept = held(view) - held(data)
    assert kept <= 1e6*memory + 22*pixels, (kept/pixels, memory*1e6/pixels)
    with pytest.raises(ValueError, match='memory is -1, expected megabytes'):
        DepthInspector(data, memory=-1)


def test_what_the_memory_holds_is_not_computed_again(tmp_path):
    calls = []
    data = open_data(write_synthdepth(tmp_path/'d', scenes=4, views=2))
    page = Page(DepthInspector(data, {'m': lambda rgb: calls.append(1) or near(rgb)}))
    for _ in range(2):
        for position in range(1, 9): page.ask(kind='show', position=position)
    assert len(calls) == 8
    for protocol in ('median', 'metric'): page.shown.choose(protocol=protocol)
    nothing = Page(DepthInspector(data, {'m': lambda rgb: calls.append(1) or near(rgb)}, memory=0))
    nothing.ask(kind='show', position=2).ask(kind='show', position=1)
    assert len(calls) == 8 + 3 and nothing.last('capture')[0]['position'] == 1


@pytest.mark.parametrize('cmap', COLOUR_MAPS)
def test_panels_share_one_range_and_invalid_is_striped(data, cmap):
    look = Comparisons(data, {'near': near})[0]
    limits, width = colour_limits(look), look.depth.shape[1]
    page = np.asarray(panel_page([look], cmap=cmap, width=width, rows='models'))
    h, step = len(look.depth), width + GAP
    truth, pred = (page[HEAD:HEAD+h, k*step:k*step+width] for k in (1, 2))
    expected = colour_depth(look.depth, look.valid, *limits, cmap)
    np.testing.assert_array_equal(truth[look.valid], expected[look.valid])
    np.testing.assert_array_equal(pred, colour_depth(look.shown['near'], None, *limits, cmap))
    assert not look.valid.all()
    assert {tuple(c) for c in truth[~look.valid]} == {(g,)*3 for g in NO_DEPTH}


def test_error_is_red_where_too_near_and_blue_where_too_far(data):
    look = Comparisons(data, {'near': lambda rgb: torch.full_like(rgb[:, 0], .1), 'far': far})[0]
    h, w = look.depth.shape
    page = np.asarray(panel_page([look], width=64, rows='models'))
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
    predicted = float(inspector.comparison.shown['near'][row, column])
    expected = {'truth': float(sample.depth[row, column]), 'near': pytest.approx(predicted)}
    assert inspector.at(row, column) == expected
    row, column = np.argwhere(~sample.valid)[0]
    assert inspector.at(row, column)['truth'] is None


def test_stepping_stops_at_both_ends(data):
    inspector = DepthInspector(data)
    inspector.widget
    inspector.step(-1)
    assert inspector.session.position == 1
    for _ in range(9): inspector.step()
    assert inspector.session.position == 6 and inspector.comparison.index == 5


def test_scene_filter_and_worst_first(data):
    inspector = DepthInspector(data, {'near': near, 'far': far})
    assert inspector.comparison.index == 0
    inspector.choose(sort='d1')
    assert '1 of 6 captures are scored' in inspector.message
    inspector.score_all()
    assert inspector.message == ''
    for name in METRICS:
        for model in ('near', 'far'):
            inspector.choose(sort=name, by=model)
            values = [inspector.comparisons.scores[model][i][name] for i in inspector.session.order]
            worst_first = sorted(values, reverse=not METRICS[name].higher_is_better)
            assert values == worst_first, (name, model)
            assert inspector.comparison.index == inspector.session.order[0]
    scene = data.captures[2].scene
    inspector.choose(scene=scene)
    assert sorted(inspector.session.order) == [2, 3]
    assert len(inspector.session.order) == 2
    assert inspector.comparison.index in (2, 3)


def test_fixed_colours_stay_while_stepping(data):
    inspector = DepthInspector(data, {'near': near})
    fitted = [pixels(inspector), pixels(inspector.step())]
    assert inspector.view['fit']
    inspector.choose(limits=(1., 4.), reach=2.)
    assert not inspector.view['fit'] and (pixels(inspector) != fitted[1]).any()
    h, w = inspector.comparison.depth.shape
    shown = colour_depth(inspector.comparison.depth, inspector.comparison.valid, 1., 4.)
    inspector.width = w
    inspector.draw()
    assert (pixels(inspector)[HEAD:HEAD + h, w + GAP:2*w + GAP] == shown).all()
    inspector.choose(limits=(2., 2.))
    assert inspector.comparison is not None and inspector.message == '' and len(pixels(inspector))


def test_page_and_code_move_each_other(data):
    inspector = DepthInspector(data, {'near': near, 'far': far})
    assert inspector.page is None
    page = Page(inspector)
    assert page.last('capture')[0]['position'] == 1
    page.ask(kind='show', position=2)
    assert inspector.session.position == 2
    assert page.last('capture')[0]['index'] == inspector.comparison.index == 1
    page.ask(kind='at', position=4)
    assert inspector.comparison.index == 3
    page.ask(kind='choose', values=dict(scene=data.captures[2].scene))
    assert inspector.session.order == [2, 3]
    assert page.last('state')[0]['n'] == 2
    assert page.last('capture')[0]['index'] == 2
    inspector.choose(scene=None, cmap='magma', position=5)
    assert page.last('capture')[0]['index'] == 4 and inspector.page.view['cmap'] == 'magma'
    inspector.page.view = inspector.page.view | dict(invert=True)
    assert inspector.view['invert']
    page.ask(kind='choose', values=dict(protocol='no such'))
    assert "unknown protocol 'no such'" in page.last('said')[0]['text']
    assert inspector.comparisons.protocol.name == 'metric'
    page.ask(kind='no such')
    assert "unknown message 'no such'" in page.last('said')[0]['text']


def test_an_interrupted_answer_is_one_too(data, monkeypatch):
    "The page holds keys back until its question is answered."
    def interrupted(*arguments): raise KeyboardInterrupt
    page = Page(DepthInspector(data, {'near': near}))
    monkeypatch.setitem(DepthInspector.answer_table, 'choose', interrupted)
    page.ask(kind='choose', values=dict(position=2))
    assert page.last('said')[0]['text'] == 'interrupted'


def test_page_gets_the_metres_that_are_scored(data):
    inspector = DepthInspector(data, {'near': near}, protocol='nyu')
    message, (rgb, truth, pred, bits) = Page(inspector).last('capture')
    look, shape = inspector.comparison, inspector.comparison.depth.shape
    assert (np.frombuffer(rgb, np.uint8).reshape(look.rgb.shape) == look.rgb).all()
    back = decode_depth(message['truth'], truth).reshape(shape)
    assert (np.isnan(back) == ~look.valid).all()
    assert np.abs(back - look.depth)[look.valid].max() < 2e-4
    shown = decode_depth(message['preds'][0], pred).reshape(shape)
    assert np.abs(shown - look.shown['near']).max() < 2e-4
    counted = np.unpackbits(np.frombuffer(bits, np.uint8))[:look.depth.size].reshape(shape)
    assert (counted == look.counted['near']).all()
    assert message['scores'] == look.scores and message['camera_known'] and not message['blind']


def test_the_page_scores_in_pieces(data):
    inspector = DepthInspector(data, {'near': near, 'far': far})
    page = Page(inspector).ask(kind='choose', values=dict(sort='rmse', by='far'))
    assert '1 of 6 captures are scored' in page.last('capture')[0]['note']
    for _ in range(20):
        page.ask(kind='score')
        if page.last('scored')[0]['done'] == 6: break
    page.ask(kind='scored')
    assert page.last('capture')[0]['note'] == ''
    scores = inspector.comparisons.scores['far']
    assert inspector.session.order[0] == max(range(6), key=lambda i: scores[i]['rmse'])


def test_a_model_that_fails_everywhere_ends_the_scoring(data):
    page = Page(DepthInspector(data, {'bad': raises}))
    for _ in range(20):
        page.ask(kind='score')
        if page.last('scored')[0]['done'] == 6: return
    raise AssertionError('scoring never ends')


def test_splits_protocols_and_corruptions_are_filters(data):
    splits = split_by_scene(data, (.34, .33, .33))
    inspector = DepthInspector(splits, {'near': near})
    assert len(inspector.session.order) == 6
    inspector.choose(split='test')
    captures = inspector.comparisons.captures
    assert [captures.locate(i)[0] for i in inspector.session.order] == ['test', 'test']
    clear, scores = inspector.comparison, inspector.comparison.scores['near']
    inspector.choose(corruption='gaussian', severity=5)
    assert (inspector.comparison.rgb != clear.rgb).any()
    assert (inspector.comparison.depth == clear.depth).all()
    assert inspector.comparison.index == clear.index
    assert inspector.comparison.scores['near'] != scores
    inspector.choose(corruption=None, protocol='median')
    median = inspector.comparison.scores['near']
    assert median != scores
    assert inspector.choose(protocol='metric').comparison.scores['near'] == scores
    with pytest.raises(ValueError, match='unknown corruption'): inspector.choose(corruption='rain')


def test_a_model_is_asked_once_for_each_picture(data):
    calls = []
    comparisons = Comparisons(data, {'m': lambda rgb: calls.append(1) or near(rgb)})
    comparisons[0]
    for name in ('median', 'affine_depth', 'nyu', 'metric'):
        change_conditions(comparisons, protocol=name)
        comparisons[0]
    assert len(calls) == 1
    change_conditions(comparisons, corruption='fog')
    comparisons[0]
    change_conditions(comparisons, protocol='published', corruption=None)
    comparisons[0]
    assert len(calls) == 3


def test_stored_results_sort_without_predicting(data):
    rows = [dict(model='old', scene=c.scene, view=c.view, rmse=float(i), protocol=None)
            for i, c in enumerate(data.captures)]
    table = pd.DataFrame(rows)
    inspector = DepthInspector(data, results=table).choose(sort='rmse', by='old')
    assert inspector.session.order == [5, 4, 3, 2, 1, 0]
    assert not inspector.comparisons.models
    assert inspector.message == ''
    elsewhere = table.assign(protocol='another: one')
    other = DepthInspector(data, results=elsewhere).choose(sort='rmse', by='old')
    assert '0 of 6 captures are scored' in other.message
    with pytest.raises(ValueError, match='expected a column model'):
        DepthInspector(data, results=table.drop(columns='model'))


def test_results_are_read_where_an_evaluation_left_them(data, tmp_path):
    rows = score_pictures(ConstantDepth(3.), data)
    table = rows.assign(model='old', protocol=rows.attrs['protocol'])
    table.to_csv(tmp_path/'rows.csv', index=False)
    foggy = table.assign(corruption='fog', severity=2, rmse=table.rmse + 1)
    foggy.to_csv(tmp_path/'corruptions_rows.csv', index=False)
    nested = dict(scores={'old': rows}, table=None)
    worst_first = np.argsort(-rows.rmse.to_numpy(), kind='stable')
    for results in (tmp_path, str(tmp_path/'rows.csv'), table, {'old': rows}, nested):
        inspector = DepthInspector(data, results=results).choose(sort='rmse', by='old')
        assert inspector.session.order == worst_first.tolist(), results
        assert inspector.message == '', results
    inspector = DepthInspector(data, results=tmp_path)
    inspector.choose(corruption='fog', severity=2, sort='rmse')
    assert inspector.comparisons.scores['old'][0]['rmse'] == pytest.approx(rows.rmse[0] + 1)
    (tmp_path/'broken.csv').write_text('')
    wrong = {tmp_path/'broken.csv': 'cannot be read', tmp_path/'none': 'cannot be read',
             data.root: 'no rows.csv'}
    for path, said in wrong.items():
        with pytest.raises(ValueError, match=said): DepthInspector(data, results=path)


def test_models_may_be_named(data, tmp_path):
    create_model('tiny').save(tmp_path/'run'/'model')
    (tmp_path/'run'/'run.json').write_text('{}')
    models = dict(named='tiny', saved=tmp_path/'run'/'model', run=str(tmp_path/'run'))
    scores = DepthInspector(data, models).comparison.scores
    assert scores['named'] == scores['saved'] == scores['run']
    with pytest.raises(ValueError, match='no model'): DepthInspector(data, dict(wrong='gpt'))


def test_a_run_is_opened_with_its_splits_models_and_rows(data, tmp_path):
    recipe, root = RECIPES['corrected'], str(data.root)
    folders = dict(train=root, valid=root, test=root)
    asked = dict(data=folders, recipe=asdict(recipe), model='tiny', weights='tiny')
    with pytest.raises(FileNotFoundError, match='not a run folder'): open_run(tmp_path)
    (tmp_path/'run.json').write_text(json.dumps(dict(asked=dict(data=dict(train=root)))))
    with pytest.raises(ValueError, match="expected the record of a fine-tune: KeyError.'recipe'"):
        open_run(tmp_path)
    (tmp_path/'run.json').write_text(json.dumps(dict(asked=asked)))
    found = open_run(tmp_path)
    assert list(found['models']) == ['original'] and found['results'] is None
    splits = make_splits(data, recipe)
    expected = {k: v.captures for k, v in splits.items()}
    assert {k: v.captures for k, v in found['data'].items()} == expected
    create_model('tiny').save(tmp_path/'model')
    rows = score_pictures(ConstantDepth(3.), splits['test'])
    table = rows.assign(model='original', protocol=rows.attrs['protocol'])
    table.to_csv(tmp_path/'rows.csv', index=False)
    inspector = DepthInspector(**open_run(tmp_path)).choose(split='test', sort='rmse')
    assert list(inspector.comparisons.models) == ['original', 'fine-tuned']
    assert len(inspector.comparisons.scores['original']) == len(rows)


def test_what_a_folder_holds_is_shown_or_the_reason_said(data, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr('synthdepth.inspector.folders.display', shown.append)
    show_folder(data.root, ['tiny', tmp_path/'nothing'])
    kinds = [type(x).__name__ for x in shown]
    assert kinds == ['HTML', 'DepthInspector', 'HTML', 'HTML', 'PredictPanel']
    assert 'nothing: UnknownModel' in shown[2].data
    shown.clear()
    show_folder(tmp_path)
    assert len(shown) == 1 and 'cannot be shown: DataError' in shown[0].data


def test_overview_tells_of_every_scene_and_of_those_that_cannot_be_read(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'d', scenes=3, views=2))
    data.captures[2].rgb.unlink()
    message, _ = Page(DepthInspector(data)).ask(kind='thumbs', **{'from': 0}).last('thumbs')
    assert message['total'] == 3 and [t['position'] for t in message['scenes']] == [1, 3, 5]
    assert 'no such file' in message['scenes'][1]['problem']
    assert message['scenes'][0]['valid'] == pytest.approx(data[0].valid.mean(), abs=1e-6)


@pytest.mark.parametrize('layout', PAGE_LAYOUTS)
def test_every_layout_can_be_chosen(data, layout):
    assert DepthInspector(data).choose(layout=layout).view['layout'] == layout


def test_saving_writes_the_picture_or_says_why_not(data, tmp_path):
    file = BytesIO()
    Image.new('RGB', (40, 30), 'red').save(file, 'PNG')
    inspector = DepthInspector(data, figures=tmp_path/'figures')
    page = Page(inspector)
    for form in ('png', 'pdf'):
        page.ask(file.getvalue(), kind='save', format=form, title='a/../b c', layout='side')
        assert page.last('said')[0]['text'].startswith('saved')
    saved = {p.name for p in (tmp_path/'figures').iterdir()}
    assert saved == {'a_.._b_c_side.png', 'a_.._b_c_side.pdf'}
    (tmp_path/'taken').write_text('a file')
    inspector.figures = tmp_path/'taken'
    page.ask(file.getvalue(), kind='save', format='png', title='x', layout='y')
    assert 'cannot write' in page.last('said')[0]['text']


def test_any_picture_can_be_predicted(data, tmp_path):
    panel = PredictPanel({'near': near, 'bad': raises}, [data.captures[0].rgb])
    page = Page(panel)
    assert page.last('capture')[0]['blind']
    assert 'out of memory' in str(page.last('capture')[0]['problems'])
    page.ask(data.captures[1].rgb.read_bytes(), kind='predict', models=['near'], title='mine.png')
    assert page.last('stage')[0]['text'] == 'near is predicting (1 of 1)'
    page.ask(kind='go')
    message, buffers = page.last('capture')
    assert message['title'] == 'mine.png'
    assert [p['name'] for p in message['preds']] == ['near']
    assert message['problems'] == []
    assert np.isnan(decode_depth(message['truth'], buffers[1])).all()
    page.ask(b'no picture', kind='predict', models=['near'], title='x.txt').ask(kind='go')
    assert 'x.txt: this is no picture' in page.last('capture')[0]['problems'][0]


def stored_as(pixels: np.ndarray, form: str, **options) -> bytes:
    "The bytes of a file."
    file = BytesIO()
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(file, form, **options)
    return file.getvalue()


GRAYS = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
KINDS = {  # the same picture in every form
    '8-bit gray': stored_as(GRAYS, 'PNG'),
    '16-bit gray': stored_as(GRAYS.astype(np.uint16)*257, 'PNG'),
    '16-bit gray TIFF': stored_as(GRAYS.astype(np.uint16)*257, 'TIFF'),
    'float TIFF': stored_as(GRAYS/np.float32(255), 'TIFF'),
    'gray with alpha': stored_as(Image.fromarray(GRAYS).convert('LA'), 'PNG'),
    'palette': stored_as(Image.fromarray(GRAYS).convert('P'), 'PNG'),
    'RGBA': stored_as(Image.fromarray(GRAYS).convert('RGBA'), 'PNG'),
    'CMYK TIFF': stored_as(Image.fromarray(GRAYS).convert('RGB').convert('CMYK'), 'TIFF'),
}


@pytest.mark.parametrize('kind', KINDS)
def test_a_picture_of_any_kind_is_shown_and_predicted_as_what_it_is(kind):
    seen = []
    page = Page(PredictPanel({'near': lambda rgb: seen.append(rgb) or near(rgb)}))
    page.ask(KINDS[kind], kind='predict', models=['near'], title=kind).ask(kind='go')
    message, buffers = page.last('capture')
    assert message['problems'] == []
    shown = np.frombuffer(buffers[0], np.uint8).reshape(48, 64, 3)
    np.testing.assert_allclose(shown, np.repeat(GRAYS[..., None], 3, 2), atol=1)
    np.testing.assert_allclose(seen[0][0, 0], GRAYS/255, atol=.005)


@pytest.mark.parametrize('content, found', [
    (b'', 'found no bytes'), (b'plain words', "begin with 'plain words'"),
    (b'\x93NUMPY\x01\x00', 'NUMPY'), (KINDS['RGBA'][:120], 'truncated')])
def test_what_is_no_picture_is_refused_in_words(content, found):
    page = Page(PredictPanel({'near': near}))
    page.ask(content, kind='predict', models=['near'], title='x.png')
    said, = page.last('capture')[0]['problems']
    assert said.startswith('x.png: ') and found in said


def sent_in_pieces(page, content: bytes, **message):
    about = dict(name='a', bytes=len(content))
    parts = [content[i:i + PIECE] for i in range(0, len(content), PIECE)]
    for part in parts[:-1]: page.ask(part, kind='piece', **about)
    return page.ask(parts[-1], **message, **about)


def test_a_large_photograph_arrives_in_pieces_below_the_limit_of_any_server(tmp_path):
    rng = np.random.default_rng(0)
    photograph = rng.integers(0, 255, (1700, 2300, 3), dtype=np.uint8)
    content = stored_as(photograph, 'PNG')
    assert len(content) > 10*2**20 > PIECE
    page = Page(PredictPanel({'near': near}, figures=tmp_path))
    sent_in_pieces(page, content, kind='predict', models=['near'], title='large.png').ask(kind='go')
    message, _ = page.last('capture')
    assert message['problems'] == [] and message['width'] == 1024
    assert held(page.shown) < 30e6  # neither the file nor the photograph is kept
    sent_in_pieces(page, content, kind='save', format='png', title='x', layout='side')
    assert (tmp_path/'x_side.png').read_bytes() == content
    page.ask(content[:9], kind='piece', name='b', bytes=LARGEST + 1)
    assert 'found 268 MB, expected at most 268 MB' in page.last('said')[0]['text']
    page.ask(b'end', kind='predict', models=['near'], title='x.png', name='c', bytes=99)
    assert '3 of 99 bytes arrived' in page.last('said')[0]['text']


def test_neither_pictures_nor_a_training_pile_up(tmp_path):
    panel = PredictPanel({'near': near})
    for _ in range(3): panel.predict(np.zeros((2000, 1000, 3), np.uint8))
    once = held(panel)
    for _ in range(5): panel.predict(np.zeros((2000, 1000, 3), np.uint8))
    assert held(panel) == once < 30*1024*512
    (tmp_path/'log.csv').write_text('epoch,train_loss\n' + ''.join(f'{i},1\n' for i in range(999)))
    monitor = TrainingMonitor(tmp_path)
    page = Page(monitor)
    for _ in range(3): page.ask(kind='poll', stamp='')
    page.got.clear()
    assert held(monitor) < 1000


def test_a_picture_is_seen_as_the_phone_was_held():
    file, exif = BytesIO(), Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new('RGB', (40, 30), 'red').save(file, 'JPEG', exif=exif)
    assert predict_picture(file.getvalue(), {'near': near}).shown['near'].shape == (40, 30)


def test_training_is_followed(tmp_path):
    page = Page(TrainingMonitor(tmp_path/'run'))
    page.ask(kind='poll', stamp='')
    assert 'no such folder' in page.last('log')[0]['status']
    (tmp_path/'run').mkdir()
    for text, said in [('', 'cannot be read'), ('a,b\n1,2\n', 'expected a column epoch'),
                       ('epoch,train_loss,valid_loss,d1\n0,,.5,.6\n1,.4,.3,.7\n',
                        'run: epoch 1, no status.json says whether')]:
        (tmp_path/'run/log.csv').write_text(text)
        page.ask(kind='poll', stamp='')
        assert said in page.last('log')[0]['status']
    (tmp_path/'run/run.json').write_text(json.dumps(dict(asked=dict(recipe=dict(epochs=5)))))
    gone = subprocess.Popen(['true'])
    gone.wait()
    for pid, word in (os.getpid(), 'running'), (gone.pid, 'killed'):
        said, process = f'run: epoch 1 of 5, {word}', dict(host=platform.node(), pid=pid)
        status = dict(state='running', message='', epoch=1, step=0, time=time.time()) | process
        (tmp_path/'run/status.json').write_text(json.dumps(status))
        page.ask(kind='poll', stamp='')
        assert page.last('log')[0]['status'] == said
    n, stamp = len(page.got), page.last('log')[0]['stamp']
    assert len(page.last('log')[0]['charts']) == 2
    page.ask(kind='poll', stamp=stamp)
    assert len(page.got) == n
    assert Image.open(BytesIO(TrainingMonitor(tmp_path/'run').picture)).width > 500


def test_served_page_has_a_token_of_its_own(tmp_path):
    tokens = {write_page(tmp_path, tmp_path)[1] for _ in range(3)}
    assert len(tokens) == 3 and (tmp_path/'voila.json').stat().st_mode & 0o77 == 0
    assert '127.0.0.1' in (tmp_path/'voila.json').read_text()


@pytest.mark.parametrize('name', ['toy', 'lr=0.1', 'run{1}', 'ü#%', "it's", 'a b', '{folder}'])
def test_served_page_runs_code_that_exists(tmp_path, name):
    root, asked = tmp_path/name, []
    (root/'model').mkdir(parents=True)
    about = dict(data=root/'moved', memory=64, kind='disparity')
    notebook, _ = write_page(tmp_path, root, ['tiny', root/'model'], root/'figures', **about)
    cell = nbformat.read(notebook, 4).cells[0].source
    line, call = cell.splitlines()
    namespace = {}
    exec(line, namespace)
    signature = inspect.signature(namespace['show_folder'])
    def show(*given, **options): asked.append(signature.bind(*given, **options).arguments)
    namespace['show_folder'] = show
    eval(call, namespace)
    expected = dict(folder=str(root), models=['tiny', str(root/'model')], memory=64,
                    figures=str(root/'figures'), data=str(root/'moved'), kind='disparity')
    assert asked == [expected]


def test_a_port_that_is_taken_is_refused_before_anything_is_printed(data, capfd):
    with socket.socket() as stranger:
        stranger.bind(('127.0.0.1', 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(PortError, match=f'port {port} .*another process listens there'):
            serve(data.root, port)
        stranger.settimeout(.2)
        with pytest.raises(TimeoutError): stranger.accept()  # nobody went there
    assert 'token' not in str(capfd.readouterr())
    with pytest.raises(PortError, match='cannot listen on port 70000'): serve(data.root, 70000)
    with listen(0) as one, listen(0) as other:
        assert one.getsockname()[1] != other.getsockname()[1]
        assert one.getsockname()[0] == '127.0.0.1'


def test_the_page_runs_in_this_interpreter_whatever_python3_is(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager
    home, work = tmp_path/'home', tmp_path/'work'
    work.mkdir()
    (home/'kernels'/'python3').mkdir(parents=True)
    spec = dict(argv=['/nowhere/python', '{connection_file}'], display_name='x', language='python')
    (home/'kernels'/'python3'/'kernel.json').write_text(json.dumps(spec))
    for name in ('JUPYTER_DATA_DIR', 'JUPYTER_CONFIG_DIR', 'JUPYTER_PATH'):
        monkeypatch.setenv(name, str(home))
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    assert KernelSpecManager().get_kernel_spec('python3').argv[0] == '/nowhere/python'
    notebook, _ = write_page(work, tmp_path)
    environment = server_environment(work)
    assert environment['OMP_WAIT_POLICY'] == 'passive' and int(environment['OMP_NUM_THREADS']) > 0
    assert environment['JUPYTER_CONFIG_DIR'] == str(work)  # no setting of theirs opens the page
    name = nbformat.read(notebook, 4).metadata.kernelspec.name
    assert own_kernels()().get_kernel_spec(name).argv[0] == sys.executable


def test_models_of_one_name_are_told_apart(tmp_path):
    folders = [tmp_path/'lr=0.1'/'pred', tmp_path/'lr=0.01'/'pred', tmp_path/'other'/'model']
    for folder in folders: folder.mkdir(parents=True)
    titles = model_titles(['tiny', *folders, folders[0]])
    assert list(titles.values()) == ['tiny', 'lr=0.1/pred', 'lr=0.01/pred', 'other']


@pytest.mark.parametrize('view', [DepthInspector, PredictPanel, TrainingMonitor])
def test_every_message_of_the_page_has_an_answer(view):
    sent = set(re.findall(r'\.send(?:Large)?\(\s*\{\s*kind: "(\w+)"', view.page_class._esm))
    assert {'ready', 'show', 'save'} <= sent
    own = {DepthInspector: sent, PredictPanel: {'ready', 'predict', 'go', 'save', 'piece'},
           TrainingMonitor: {'poll'}}
    assert own[view] <= sent and own[view] <= set(view.answer_table)


def test_views_do_not_answer_for_each_other():
    tables = DepthInspector.answer_table, PredictPanel.answer_table, TrainingMonitor.answer_table
    assert set(tables[0]) & set(tables[1]) == {'ready', 'save', 'piece'}
    assert tables[0]['ready'] is not tables[1]['ready'] and set(tables[2]) == {'poll'}


def test_overview_is_read_under_the_conditions_chosen(data):
    inspector = DepthInspector(data)
    page = Page(inspector)
    clear = page.ask(kind='thumbs', **{'from': 0}).last('thumbs')[0]['scenes']
    assert Image.open(BytesIO(base64.b64decode(clear[0]['png']))).width == 256
    inspector.choose(corruption='fog', severity=5)
    foggy = page.ask(kind='thumbs', **{'from': 0}).last('thumbs')[0]['scenes']
    assert foggy[0]['png'] != clear[0]['png'] and foggy[0]['median'] == clear[0]['median']


def test_colours_fit_the_predictions_where_there_is_no_truth(tmp_path):
    inspector = DepthInspector(broken(tmp_path, 'invalid'), {'near': near})
    low, high = colour_limits(inspector.comparison)
    assert Page(inspector).last('capture')[0]['limits'] == (low, high)
    assert 2 <= low < high <= 3


def test_a_camera_is_that_of_the_picture_shown(data):
    native = data.captures[0].intrinsics
    comparison = DepthInspector(data, protocol='nyu_fastdepth').comparison
    kept = round(64*228/250)
    assert comparison.depth.shape == (224, 224)
    assert comparison.camera.fx == pytest.approx(native.fx*224/kept, rel=1e-6)
    assert comparison.camera.cx == pytest.approx((native.cx - (64 - kept)//2)*224/kept, rel=1e-6)


def test_empty_choice_is_a_message(data):
    inspector = DepthInspector(data)
    inspector.widget
    inspector.choose(scene='nowhere')
    assert "no capture of scene 'nowhere'" in inspector.message
    assert inspector.at(0, 0) == {}
    assert inspector.step().comparison is None
    assert inspector.choose(scene=None).comparison.index == 0
    with pytest.raises(TypeError, match='no choice colour'): inspector.choose(colour='red')


def test_interrupted_scoring_keeps_what_it_has(data):
    calls = []

    def slow(rgb):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return near(rgb)
    inspector = DepthInspector(data, {'slow': slow}).score_all()
    assert sorted(inspector.comparisons.scores['slow']) == [0, 1]


def test_the_prediction_shown_is_the_one_scored(data):
    class Disparity(torch.nn.Module):
        predicts = 'disparity'

        def forward(self, rgb): return 5 + 3*rgb.mean(1)
    look = Comparisons(data, {'d': Disparity()}, protocol='affine_disparity')[0]
    m = look.counted['d']
    rmse = np.sqrt((look.error('d')[m]**2).mean())
    assert look.scores['d']['rmse'] == pytest.approx(rmse, rel=1e-4)
    look = Comparisons(data, {'d': Disparity()})[0]
    assert 'd' not in look.shown and 'choose an alignment' in look.problems[0]


def test_published_protocol_fits_its_size(data):
    look = Comparisons(data, {'near': near}, protocol='published')[0]
    assert look.depth.shape == (256, 256) and (look.shown['near'] == 10).all()


class Elsewhere:
    "Stands in for maps that another program predicted."
    predicts, name = 'metric', 'elsewhere'
    def for_captures(self, captures, size, centre): return torch.full((len(captures), *size), 2.)


def test_predictions_made_elsewhere_are_a_model_and_say_what_they_cannot(data):
    inspector = DepthInspector(data, {'theirs': Elsewhere(), 'near': near})
    page = Page(inspector)
    assert list(inspector.comparison.scores) == ['theirs', 'near'] and inspector.message == ''
    assert (inspector.comparison.shown['theirs'] == 2).all()
    assert page.last('setup')[0]['no_corruption'] == ''
    inspector.choose(corruption='fog')
    assert list(inspector.comparison.scores) == ['near']
    assert 'theirs: ValueError: made elsewhere' in inspector.comparison.problems[0]
    alone = Page(DepthInspector(data, {'theirs': Elsewhere()})).last('setup')[0]
    assert 'theirs: predicted elsewhere' in alone['no_corruption']
    panel = PredictPanel({'theirs': Elsewhere(), 'near': near})
    setup = Page(panel).last('setup')[0]
    assert setup['models'] == ['near'] and 'theirs: predicted elsewhere' in setup['without']
    alone = PredictPanel({'theirs': Elsewhere()})
    assert 'theirs: predicted elsewhere' in alone.description


@pytest.mark.parametrize('protocol', ['metric', 'published', 'nyu_fastdepth'])
def test_a_folder_of_maps_is_looked_at_as_the_model_that_wrote_it(tmp_path, protocol):
    parts = {name: open_data(write_synthdepth(tmp_path/name, scenes=1, views=2, size=size,
                                              preset=name))
             for name, size in dict(wide=(48, 96), tall=(96, 48)).items()}
    maps = tmp_path/'lr=0.1 {ü}#%'
    for name, part in parts.items():
        (maps/name).mkdir(parents=True)
        for capture, sample in zip(part.captures, part):
            depth = 2 + sample.rgb.astype(np.float32).mean(2)/255
            np.save(maps/name/f'{capture.rgb.stem}.npy', depth)
    with pytest.raises(ValueError, match='nothing is stated'): DepthInspector(parts, dict(x=maps))
    (maps/'predictions.json').write_text('{"predicts": "metric"}')
    inspector = DepthInspector(parts, {'near': near, 'theirs': maps}, protocol=protocol)
    inspector.score_all()
    assert inspector.message == '' and not inspector.comparison.problems
    scores = inspector.comparisons.scores
    tolerance = 1e-4 if protocol == 'metric' else .02
    for i in range(4): assert scores['theirs'][i] == pytest.approx(scores['near'][i], rel=tolerance)
    (maps/'wide'/'rgb_00000.npy').unlink()  # that of the other scene is not taken for it
    inspector = DepthInspector(parts, {'theirs': maps})
    assert 'holds no map of this picture' in inspector.message
    assert inspector.step().comparison.scores['theirs']


def test_a_run_whose_data_have_moved_is_opened_with_the_data_given(tmp_path, monkeypatch):
    recipe, old = asdict(RECIPES['corrected']), tmp_path/'cluster'
    asked = dict(recipe=recipe, model='tiny', weights='tiny')
    asked |= dict(data=dict.fromkeys(('train', 'valid', 'test'), str(old)))
    run, here = tmp_path/'run {1}', write_synthdepth(tmp_path/'lr=0.1 #%ü', scenes=6, views=2)
    run.mkdir()
    (run/'run.json').write_text(json.dumps(dict(asked=asked)))
    with pytest.raises(FileNotFoundError, match='cluster; say where they are now'): open_run(run)
    splits = make_splits(open_data(here), RECIPES['corrected'])
    found = open_run(run, here)['data']
    assert {k: v.captures for k, v in found.items()} == {k: v.captures for k, v in splits.items()}
    shown = []
    monkeypatch.setattr('synthdepth.inspector.folders.display', shown.append)
    show_folder(run)
    kinds = [type(x).__name__ for x in shown]
    assert kinds == ['HTML', 'TrainingMonitor', 'HTML', 'HTML', 'PredictPanel']
    assert 'say where they are now' in shown[2].data
    shown.clear()
    show_folder(run, data=here)
    assert 'DepthInspector' in [type(x).__name__ for x in shown]
    parts = {name: str(old/name) for name in ('train', 'valid', 'test')}
    (run/'run.json').write_text(json.dumps(dict(asked=asked | dict(data=parts))))
    assert len(open_run(run, here)['data']) == 12
    for name in parts: write_synthdepth(tmp_path/'new'/name, scenes=1, views=1)
    assert open_run(run, tmp_path/'new')['data'] == {k: tmp_path/'new'/k for k in parts}


def test_captures_of_several_sizes_are_leafed_through(tmp_path):
    parts = {name: write_synthdepth(tmp_path/name, scenes=1, views=2, size=size)
             for name, size in dict(wide=(48, 160), tall=(160, 48), square=(64, 64)).items()}
    page = Page(DepthInspector(parts, {'near': near}))
    inspector, sizes = page.shown, []
    for position in range(1, 7):
        message, buffers = page.ask(kind='show', position=position).last('capture')
        sizes.append((message['height'], message['width']))
        assert message['problems'] == [] and message['scores']['near']['rmse'] > 0
        assert len(buffers[0]) == 3*message['height']*message['width']
        assert len(pixels(inspector)) > 0
    assert sizes == [(48, 160)]*2 + [(160, 48)]*2 + [(64, 64)]*2
    scenes = page.ask(kind='thumbs', **{'from': 0}).last('thumbs')[0]['scenes']
    assert [scene['captures'] for scene in scenes] == [6]
    inspector.score_all()
    assert inspector.message == '' and len(inspector.comparisons.scores['near']) == 6


def broken(tmp_path, what):
    root = write_synthdepth(tmp_path/'d', scenes=2, views=1)
    data = open_data(root)
    c = data.captures[0]
    if what == 'size': Image.new('RGB', (30, 20)).save(c.rgb)
    elif what == 'missing': c.depth.unlink()
    elif what == 'truncated': c.rgb.write_bytes(c.rgb.read_bytes()[:200])
    elif what == 'invalid': Image.fromarray(np.zeros((48, 64), np.uint16)).save(c.depth)
    return data.subset([]) if what == 'empty' else data


@pytest.mark.parametrize('what, said', [
    ('size', 'expected equal height x width'), ('missing', 'no such file'),
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
        assert inspector.comparison.index == 1 and said not in inspector.message


def raises(rgb): raise RuntimeError('<b>out of memory</b>')


@pytest.mark.parametrize('model, said', [
    (lambda rgb: torch.full_like(rgb[:, 0], torch.nan), 'not a finite number at'),
    (lambda rgb: rgb[:, 0, ::2], 'predicted shape (1, 24, 64), expected (1, 48, 64)'),
    (raises, 'RuntimeError: &lt;b&gt;out of memory')])
def test_bad_model_is_a_message_beside_the_others(data, model, said):
    inspector = DepthInspector(data, {'bad': model, 'good': near})
    inspector.widget
    assert said in inspector.message
    assert list(inspector.comparison.scores) == ['good']
    inspector.choose(sort='rmse')
    inspector.score_all()
    assert '0 of 6 captures are scored' in inspector.message


def test_a_mended_file_is_seen(tmp_path):
    data = broken(tmp_path, 'missing')
    inspector = DepthInspector(data)
    inspector.widget
    write_synthdepth(tmp_path/'d', scenes=2, views=1)
    inspector.draw()
    assert inspector.comparison.index == 0 and inspector.message == ''


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
from synthdepth.inspector import DepthInspector
DepthInspector(open_data({root!r}), {{'near': lambda rgb: 2 + rgb.mean(1)}})'''


def executed(root, client):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.format(root=str(root)))])
    return client(nb, timeout=120, kernel_name='python3').execute()


def test_headless_notebook_stores_a_picture(data):
    nb = executed(data.root, NotebookClient)
    outputs = nb.cells[0].outputs
    kinds = [sorted(o.data) for o in outputs]
    assert kinds == [['image/png', 'text/plain'], ['text/html', 'text/plain']]
    assert Image.open(BytesIO(base64.b64decode(outputs[0].data['image/png']))).width > 1000
    page, _ = HTMLExporter().from_notebook_node(nb)
    described = outputs[0].metadata['image/png']['alt']
    assert described in outputs[1].data['text/html']
    assert described in page
    assert 'data:image/png;base64,' in page
    assert 'widgets' not in nb.metadata and WIDGET not in str(outputs)


def test_live_notebook_stores_the_picture_before_the_widget(data):
    nb = executed(data.root, Person)
    picture, widget = nb.cells[0].outputs
    assert 'image/png' in picture.data
    assert 'alt="' in picture.data['text/html']
    assert WIDGET not in picture.data
    state = nb.metadata.widgets['application/vnd.jupyter.widget-state+json']['state']
    assert widget.data[WIDGET]['model_id'] in state
    assert len(str(state)) < 200_000  # no depth map in the saved notebook


def test_step_is_quick(tmp_path):
    data = open_data(write_synthdepth(tmp_path/'big', scenes=2, views=1, size=(480, 640)))
    page = Page(DepthInspector(data, {'near': near}))
    page.ask(kind='show', position=2)
    times = []
    for position in (1, 2)*4:
        start = time.perf_counter()
        page.ask(kind='show', position=position)
        times.append(time.perf_counter() - start)
    assert min(times) < .1, times
