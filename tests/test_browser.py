"The inspector in a real browser: Chromium before a real JupyterLab, as a person would use it."
import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from toy import write_synthdepth

from synthdepth.colour import NO_DEPTH
from synthdepth.data import open_data
from synthdepth.inspector import COLOUR_MAPS
from synthdepth.models import create_model, load_model
from synthdepth.training import RECIPES

MISSING = 'playwright is not installed (pip install synthdepth[dev])'
playwright = pytest.importorskip('playwright.sync_api', reason=MISSING)
pytest.importorskip('jupyterlab', reason='jupyterlab is not installed')
NAMES = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = next((p for p in map(shutil.which, NAMES) if p), None)
if not CHROMIUM:
    advice = 'no chromium here (Debian, Ubuntu: apt-get install chromium)'
    pytest.skip(advice, allow_module_level=True)

SIZE = (480, 640)
ARGS = ['--no-sandbox', '--use-gl=angle', '--use-angle=swiftshader', '--enable-unsafe-swiftshader',
        '--ignore-gpu-blocklist', '--disable-background-networking', '--disable-component-update',
        '--disable-sync', '--no-first-run']
ROOT = "document.querySelector('.sd-root')"
SHOTS = Path(__file__).resolve().parents[1]/'data'/'browser'
CELL = '''from synthdepth.inspector import DepthInspector
from synthdepth.data import open_data, split_by_scene

def near(rgb): return 2 + rgb.mean(1)
def far(rgb): return 6 + rgb.mean(1)

data = open_data('toy')
inspector = DepthInspector(data, {'near': near, 'far': far})
inspector'''


def write_notebook(root: Path, *cells: str, name: str = 'look.ipynb'):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nb, root/name)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    "A folder with a set, a broken set and a notebook."
    root = tmp_path_factory.mktemp('lab')
    write_synthdepth(root/'toy', scenes=4, views=2, size=SIZE)
    write_notebook(root, CELL)
    run, folder = root/'run', str(root/'toy')
    create_model('tiny').save(run/'model')
    recipe = asdict(RECIPES['corrected']) | dict(epochs=2)
    folders = dict.fromkeys(('train', 'valid', 'test'), folder)
    asked = dict(data=folders, recipe=recipe, model='tiny', weights='tiny')
    (run/'run.json').write_text(json.dumps(dict(asked=asked)))
    (run/'log.csv').write_text('epoch,train_loss,valid_loss,d1\n0,,.5,.6\n1,.4,.3,.7\n')
    return root


@contextmanager
def start_lab(work: Path):
    "A JupyterLab server; its address with the token."
    port, token = free_port(), 'local'
    own = work/'.jupyter'
    home = {f'JUPYTER_{k}_DIR': str(own/k) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    settings = own/'settings'
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--ip=127.0.0.1',
               f'--port={port}', '--expose-app-in-browser', f'--IdentityProvider.token={token}',
               f'--ServerApp.root_dir={work}', '--allow-root',
               f'--LabApp.user_settings_dir={settings}',
               f'--LabApp.workspaces_dir={own}/workspaces']
    extension = settings/'@jupyterlab'/'apputils-extension'
    extension.mkdir(parents=True)
    quiet = dict(fetchNews='false', checkForUpdates=False)
    (extension/'notification.jupyterlab-settings').write_text(json.dumps(quiet))
    log = open(work/'lab.log', 'w')
    server = subprocess.Popen(command, cwd=work, env=os.environ | home, stdout=log, stderr=log)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(600):  # two minutes and more: a machine may be busy
            try:
                urllib.request.urlopen(f'{url}/api/status?token={token}', timeout=2)
                break
            except OSError: time.sleep(.2)
        else: pytest.fail(f'JupyterLab did not start: {(work/"lab.log").read_text()[-800:]}')
        yield f'{url}/lab/tree/look.ipynb?token={token}&reset'
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope='module')
def lab(work):
    with start_lab(work) as address: yield address


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield chromium
        chromium.close()


def errors_of(page) -> list[str]:
    "Collects what a person would find in red in the console."
    said = []
    # The server's own pages that are missing offline; Voila's own, for extensions of JupyterLab.
    alien = 'Failed to load resource', 'shared module'

    def hear(m):
        if m.type == 'error' and not any(a in m.text for a in alien): said.append(m.text)
    page.on('console', hear)
    page.on('pageerror', lambda e: said.append(str(e)))
    return said


def open_notebook(page, address):
    page.goto(address)
    ready = "window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')"
    page.wait_for_function(ready, timeout=40000)
    page.evaluate("""async () => {
      const app = window.jupyterapp, panel = app.shell.currentWidget;
      await panel.context.ready;
      await panel.sessionContext.ready;
      await app.commands.execute('application:toggle-left-area');
    }""")


def run_cells(page, address):
    open_notebook(page, address)
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector('.sd-root[data-shown]', timeout=120000)


@pytest.fixture(scope='module')
def page(browser, lab):
    page = browser.new_page(viewport=dict(width=1500, height=1100))
    page.set_default_timeout(30000)
    page.said, page.sent = errors_of(page), []
    page.on('websocket', lambda w: w.on('framesent', lambda data: page.sent.append(data)))
    run_cells(page, lab)
    return page


def shot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.locator('.sd-root').screenshot(path=SHOTS/f'{name}.png')


def field(page, name):
    "A control or a place of the page; its drawer is opened where it is in one."
    there = page.locator(f'.sd-root [data-name="{name}"]')
    page.evaluate("""(el) => {
      const drawer = el.closest('.sd-drawer[hidden]'), name = drawer?.dataset.drawer;
      if (drawer) el.closest('.sd-root').querySelector(`[data-opens="${name}"]`).click();
    }""", there.element_handle())
    return there


def under_the_probe(page) -> tuple[int, int, dict]:
    "Column, row, and name -> metres, error, ratio as they are written."
    text = field(page, 'readout').inner_text()
    column, row = map(int, re.search(r'column (\d+), row (\d+)', text).groups())
    rows = page.locator('.sd-root [data-name="readout"] tbody tr')
    rows = rows.evaluate_all('rs => rs.map(r => [...r.children].map(c => c.innerText))')
    return column, row, {name: cells for name, *cells in rows}


def shown(page, position):
    there = f'p => {ROOT}.dataset.shown === String(p)'
    page.wait_for_function(there, arg=position, timeout=30000)


def wait_for(page, name, condition, arg=None, timeout=30000):
    "Waits until a named part of the page, `it`, is as it should be."
    part = f"document.querySelector('.sd-root [data-name={name}]')"
    page.wait_for_function(f'arg => {{ const it = {part}; return {condition}; }}', arg=arg,
                           timeout=timeout)


def painted(page):
    "Waits until what was just chosen is on the screen."
    page.evaluate('() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))')


def press(page, key):
    page.locator('.sd-root').focus()
    page.keyboard.press(key)


def canvas(page, selector) -> np.ndarray:
    "What is painted on a canvas, in its own pixels."
    url = page.evaluate('s => document.querySelector(s).toDataURL()', selector)
    file = io.BytesIO(base64.b64decode(url.split(',')[1]))
    return np.asarray(Image.open(file).convert('RGB'))


def pixels(page, key) -> np.ndarray:
    "What is painted on a panel."
    return canvas(page, f"canvas[data-key='{key}']")


def until(page, done, seconds=15):
    "Waits for something that the kernel has to answer."
    for _ in range(10*seconds):
        if done(): return
        page.wait_for_timeout(100)
    raise AssertionError('nothing came of it')


def point(page, key, u, v):
    "Moves the mouse to the middle of a pixel of the whole picture."
    box = page.locator(f"canvas[data-key='{key}']").bounding_box()
    x, y = (u + .5)/SIZE[1]*box['width'], (v + .5)/SIZE[0]*box['height']
    page.mouse.move(box['x'] + x, box['y'] + y)


def test_opens_with_every_panel(page):
    titles = ['picture', 'truth', 'near', 'near − truth', 'far', 'far − truth']
    assert page.locator('.sd-panel figcaption').all_inner_texts() == titles
    assert all(pixels(page, k).std() > 5 for k in ('rgb', 'truth', 'pred:near', 'err:far'))
    assert 'near' in field(page, 'table').inner_text()
    assert 'rmse' in field(page, 'table').inner_text()
    stored = page.locator('.jp-OutputArea img').first
    assert not stored.is_visible()  # it stands back
    shot(page, 'side')


def test_keys_step_and_stop_at_the_ends(page):
    press(page, 'ArrowRight')
    shown(page, 2)
    assert '2 / 8' in field(page, 'where').inner_text()
    press(page, 'End')
    shown(page, 8)
    press(page, 'ArrowRight')
    press(page, 'ArrowLeft')
    shown(page, 7)
    press(page, 'Home')
    shown(page, 1)


def test_hover_shows_the_metres_of_the_file_in_every_panel_without_the_kernel(page, work):
    sample, sent = open_data(work/'toy')[0], len(page.sent)
    for v, u in np.argwhere(sample.valid)[[5000, -5000]]:
        point(page, 'pred:near', int(u), int(v))
        column, row, said = under_the_probe(page)
        assert abs(column - u) <= 1 and abs(row - v) <= 1
        truth = float(sample.depth[row, column])
        near = 2 + float((sample.rgb[row, column]/255).astype(np.float32).mean())
        assert said['truth'][0] == f'{truth:.3f}' and set(said) == {'truth', 'near', 'far'}
        metres, error, ratio = map(float, said['near'])
        assert metres == pytest.approx(near, abs=.0011)
        assert error == pytest.approx(near - truth, abs=.0015) and said['near'][1][0] in '+-'
        assert ratio == pytest.approx(near/truth, abs=.002)
        titles = page.locator('.sd-panel figcaption').all_inner_texts()
        values = dict(zip(titles, page.locator('.sd-value').all_inner_texts()))
        assert values['picture'] == f'column {column}, row {row}'
        assert values['truth'] == f'{truth:.3f} m'
        assert values['near'] == f'{said["near"][0]} m, ratio {said["near"][2]}'
        assert values['near − truth'].startswith(f'{said["near"][1]} m, ')
        assert values['near − truth'].endswith(' %')
        assert values['far'].startswith(said['far'][0])
        assert values['far − truth'].startswith(said['far'][1])
    page.wait_for_timeout(300)
    assert page.sent[sent:] == []


def test_shift_and_arrows_move_the_probe(page):
    point(page, 'truth', 300, 400)
    a = under_the_probe(page)
    press(page, 'Shift+ArrowRight')
    press(page, 'Shift+ArrowDown')
    b = under_the_probe(page)
    assert (b[0] - a[0], b[1] - a[1]) == (1, 1)


def test_zoom_and_pan_are_linked(page):
    point(page, 'truth', 100, 300)
    whole = pixels(page, 'truth'), pixels(page, 'rgb')
    press(page, '0')
    for _ in range(3): page.mouse.wheel(0, -300)
    page.wait_for_function("+document.querySelector('.sd-root').dataset.zoom > 5")
    assert all((a != b).any() for a, b in zip(whole, (pixels(page, 'truth'), pixels(page, 'rgb'))))
    column, row, _ = under_the_probe(page)
    assert abs(column - 100) <= 1 and abs(row - 300) <= 1
    before, box = pixels(page, 'rgb'), page.locator("canvas[data-key='truth']").bounding_box()
    page.mouse.down()
    page.mouse.move(box['x'] + box['width']*.6, box['y'] + box['height']*.4)
    page.mouse.up()
    assert (pixels(page, 'rgb') != before).any()
    shot(page, 'zoomed')
    press(page, '0')
    assert page.locator('.sd-root').get_attribute('data-zoom') == '1.000'


def test_colours_limits_and_stripes(page, work):
    sample = open_data(work/'toy')[0]
    point(page, 'rgb', 2, 2)
    v, u = np.argwhere(~sample.valid)[len(np.argwhere(~sample.valid))//2]
    picture = pixels(page, 'truth')
    at = picture[int((v + .5)/480*len(picture)), int((u + .5)/640*picture.shape[1])]
    assert tuple(at) in {(g,)*3 for g in NO_DEPTH}
    for name, value in (('cmap', 'magma'), ('scale', 'disparity'), ('scale', 'log')):
        field(page, name).select_option(value)
        painted(page)
        new = pixels(page, 'truth')
        assert (new != picture).any()
        picture = new
    field(page, 'invert').check()
    painted(page)
    assert (pixels(page, 'truth') != picture).any()
    shot(page, 'magma_log_inverted')
    field(page, 'high').fill('3')
    field(page, 'high').press('Enter')
    page.wait_for_function("!document.querySelector('.sd-root [data-name=fit]').checked")
    field(page, 'cmap').select_option('viridis')
    field(page, 'scale').select_option('linear')
    field(page, 'invert').uncheck()
    field(page, 'fit').check()


def ink(picture) -> set:
    "The colours of a picture."
    return {tuple(c) for c in picture.reshape(-1, 3)}


def test_no_depth_is_striped_in_every_colour_map_and_has_a_legend(page, work):
    point(page, 'rgb', 2, 2)
    hole = ~open_data(work/'toy')[0].valid
    rows, columns = np.nonzero(hole)
    picture = pixels(page, 'truth')
    (h, w), band = picture.shape[:2], max(2, min(picture.shape[:2])//32)
    v, u = np.mgrid[:h, :w]
    inside = hole[((v + .5)/h*SIZE[0]).astype(int), ((u + .5)/w*SIZE[1]).astype(int)]
    edge = np.hypot(v - (2 + .5)/SIZE[0]*h, u - (2 + .5)/SIZE[1]*w) < 16  # under the probe's cross
    expected = np.array(NO_DEPTH)[(v + u)//band % 2]
    assert rows.size and (inside & ~edge).sum() > 1000
    for name in COLOUR_MAPS:
        field(page, 'cmap').select_option(name)
        painted(page)
        found = pixels(page, 'truth')[inside & ~edge]
        same = (found == expected[inside & ~edge][:, None]).all(1)
        assert same.mean() > .97, name  # the page rounds another way at the border of the hole
        legend = ink(canvas(page, 'canvas[data-name=depth-bar]'))
        assert {(g,)*3 for g in NO_DEPTH} <= legend, name
        if name == 'cividis': shot(page, 'cividis')
    bar = field(page, 'depth-bar').get_attribute('aria-label')
    assert bar.endswith('striped: no depth')
    assert field(page, 'error-bar').get_attribute('aria-label').endswith('striped: not scored')
    field(page, 'cmap').select_option('viridis')


def test_sort_by_worst_and_filter_by_scene(page):
    field(page, 'score').click()
    wait_for(page, 'progress', 'it.hidden', timeout=20000)
    field(page, 'by').select_option('far')
    press(page, 'End')  # before the kernel has answered, which begins anew
    shown(page, 8)
    field(page, 'sort').select_option('rmse')
    shown(page, 1)  # another order begins at its first
    found = []
    for k in range(1, 9):
        if k > 1: press(page, 'ArrowRight')
        shown(page, k)
        rows = field(page, 'table').inner_text().splitlines()
        row = next(r for r in rows if r.startswith('rmse (m)'))
        found.append(float(row.split()[-1]))
    assert found == sorted(found, reverse=True) and found[0] > found[-1]
    field(page, 'sort').select_option('')
    field(page, 'scene').fill('toy-0-00002')
    field(page, 'scene').press('Enter')
    wait_for(page, 'where', "it.textContent.startsWith('1 / 2')")
    field(page, 'scene').fill('nowhere')
    field(page, 'scene').press('Enter')
    wait_for(page, 'message', 'it.textContent.includes(arg)', "scene 'nowhere'")
    shot(page, 'empty_filter')
    field(page, 'scene').fill('')
    field(page, 'scene').press('Enter')
    wait_for(page, 'where', "it.textContent.startsWith('1 / 8')")


def test_protocol_and_corruption_are_computed_anew(page):
    table = field(page, 'table').inner_text()
    field(page, 'protocol').select_option('median')
    wait_for(page, 'table', 'it.innerText !== arg', table)
    assert 'aligned by median' in field(page, 'table').inner_text()
    clear = pixels(page, 'rgb')
    field(page, 'corruption').select_option('fog')
    field(page, 'severity').select_option('5')
    until(page, lambda: np.abs(pixels(page, 'rgb').astype(int) - clear).mean() > 3)
    shot(page, 'fog')
    field(page, 'corruption').select_option('')
    field(page, 'protocol').select_option('metric')
    wait_for(page, 'table', "it.innerText.includes('not aligned')")


def test_swipe(page):
    whole = pixels(page, 'truth')
    press(page, 'w')
    page.wait_for_selector("canvas[data-key='swipe']")
    field(page, 'left').select_option('truth')
    field(page, 'right').select_option('pred:near')
    painted(page)
    half = pixels(page, 'swipe')
    box = page.locator("canvas[data-key='swipe']").bounding_box()
    page.mouse.move(box['x'] + box['width']/2, box['y'] + box['height']/2)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width']*.8, box['y'] + box['height']/2)
    page.mouse.up()
    moved = pixels(page, 'swipe')
    w, h = half.shape[1], half.shape[0]
    band = slice(h//2 + 40, h - 20), slice(int(.55*w), int(.7*w))
    assert (moved[band] != half[band]).mean() > .3 and whole.shape != half.shape
    shot(page, 'swipe')


def test_point_cloud_appears_and_turns(page):
    press(page, 'c')
    page.wait_for_function("document.querySelector('.sd-root').dataset.points")
    points = [int(n) for n in page.locator('.sd-root').get_attribute('data-points').split()]
    assert len(points) == 3 and all(n > 10_000 for n in points)
    page.wait_for_timeout(300)
    before = pixels(page, 'cloud')
    assert before.std() > 10
    box = page.locator("canvas[data-key='cloud']").bounding_box()
    page.mouse.move(box['x'] + 200, box['y'] + 100)
    page.mouse.down()
    page.mouse.move(box['x'] + 300, box['y'] + 130, steps=3)
    page.mouse.up()
    assert (pixels(page, 'cloud') != before).mean() > .02
    field(page, 'ink').select_option('error')
    painted(page)
    shot(page, 'cloud')
    field(page, 'ink').select_option('picture')
    page.locator("canvas[data-key='cloud']").dblclick()
    turned = pixels(page, 'cloud')
    press(page, 'Shift+ArrowLeft')
    assert (pixels(page, 'cloud') != turned).mean() > .02
    press(page, '0')
    assert (pixels(page, 'cloud') == turned).all()
    shot(page, 'cloud_rgb')
    press(page, 's')
    page.wait_for_selector("canvas[data-key='truth']")


def test_profile_and_save(page, work):
    field(page, 'tool').get_by_text('profile').click()
    point(page, 'truth', 60, 400)
    page.mouse.down()
    point(page, 'truth', 580, 300)
    page.mouse.up()
    assert field(page, 'profile').is_visible()
    shot(page, 'profile')
    for form in ('png', 'pdf'):
        field(page, form).click()
        wait_for(page, 'message', 'it.textContent.includes(arg)', f'.{form}')
    png, = (work/'figures').glob('*.png')
    assert Image.open(png).width > 1500
    SHOTS.joinpath('saved.png').write_bytes(png.read_bytes())
    assert next((work/'figures').glob('*.pdf')).read_bytes()[:5] == b'%PDF-'
    field(page, 'tool').get_by_text('move').click()
    press(page, 'l')
    assert not field(page, 'profile').is_visible()


def test_the_keyboard_alone_is_enough(page):
    press(page, 'm')
    assert page.evaluate("document.querySelector('.sd-root').inspector.view.cmap") == 'cividis'
    focused = "() => document.activeElement.dataset.opens ?? document.activeElement.dataset.name"
    for _ in range(12):
        page.keyboard.press('Tab')
        if page.evaluate(focused) == 'colours': break
    opener = page.locator('[data-opens="colours"]')
    if opener.get_attribute('aria-expanded') == 'false': page.keyboard.press('Enter')
    assert field(page, 'cmap').is_visible()
    for _ in range(6):
        page.keyboard.press('Tab')
        if page.evaluate(focused) == 'cmap': break
    page.keyboard.type('v')
    page.wait_for_function(f"{ROOT}.inspector.view.cmap === 'viridis'")
    page.keyboard.press('Escape')
    assert not page.locator('[data-drawer="colours"]').is_visible()
    press(page, 'ArrowRight')
    shown(page, 2)
    press(page, 'Home')
    shown(page, 1)


def test_a_key_held_down_leaves_no_queue(page):
    alone = 'it.kept.clear(); it.ahead = () => {};'
    page.evaluate(f'() => {{ const it = {ROOT}.inspector; {alone} }}')
    before = len(page.sent)
    page.locator('.sd-root').focus()
    page.evaluate('''() => { for (let i = 0; i < 6; i++)
        document.querySelector('.sd-root').dispatchEvent(
            new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})); }''')
    shown(page, 7)
    sent = [s if isinstance(s, bytes) else s.encode() for s in page.sent[before:]]
    asked = [s for s in sent if b'"show"' in s]
    assert 1 <= len(asked) < 6
    page.evaluate("() => { delete document.querySelector('.sd-root').inspector.ahead; }")
    press(page, 'Home')
    shown(page, 1)


def test_overview_shows_a_thumbnail_of_every_scene(page):
    press(page, 'o')
    page.wait_for_function("document.querySelectorAll('.sd-thumb img').length === 4")
    alts = page.locator('.sd-thumb img').evaluate_all('xs => xs.map(x => x.alt)')
    assert all('% valid, median' in a for a in alts)
    shot(page, 'overview')
    page.locator('.sd-thumb').nth(2).click()
    shown(page, 5)


def test_every_control_has_a_name_and_the_page_is_readable_at_125_percent(page):
    nameless = page.evaluate('''() => [...document.querySelectorAll(
        '.sd-root :is(button, input, select, canvas, progress)')]
      .filter((e) => !e.closest('[hidden]'))
      .filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.title))
      .filter((e) => !e.innerText?.trim())
      .map((e) => e.outerHTML)''')
    assert nameless == []
    page.set_viewport_size(dict(width=1200, height=880))  # what 125 % leaves of 1500 x 1100
    page.wait_for_function(f'() => {ROOT}.getBoundingClientRect().right <= window.innerWidth')
    page.wait_for_timeout(300)
    wide = page.evaluate(f'{ROOT}.scrollWidth - {ROOT}.clientWidth')
    assert wide <= 0
    shot(page, 'zoom_125')
    page.set_viewport_size(dict(width=1500, height=1100))


def test_a_saved_notebook_shows_the_picture_without_a_kernel(page, work):
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(500)
    picture = json.loads((work/'look.ipynb').read_text())['cells'][0]['outputs'][0]['data']
    assert 'image/png' in picture and 'alt="toy-0-00000' in ''.join(picture['text/html'])


def test_nothing_red_in_the_console(page):
    assert page.said == []


@pytest.fixture(scope='module')
def served(browser, work):
    "A run folder served as a page: its curves, its pictures, and a place for any other picture."
    port = free_port()
    run, figures = str(work/'run'), str(work/'figures')
    code = f'from synthdepth.inspector import serve; serve({run!r}, {port}, (), {figures!r})'
    alien = work/'alien'/'kernels'/'python3'  # a kernel of somebody else, by the usual name
    alien.mkdir(parents=True)
    spec = dict(argv=['/nowhere/python', '{connection_file}'], display_name='x', language='python')
    (alien/'kernel.json').write_text(json.dumps(spec))
    environment = os.environ | dict(JUPYTER_DATA_DIR=str(work/'alien'))
    with open(work/'voila.log', 'w') as log:
        command = [sys.executable, '-c', code]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True,
                                  env=environment)
    try:
        address = server.stdout.readline().strip()
        for _ in range(600):
            try:
                stranger = urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=2).url
                break
            except OSError: time.sleep(.2)
        else: pytest.fail(f'Voila did not start: {(work/"voila.log").read_text()[-800:]}')
        page = browser.new_page(viewport=dict(width=1300, height=1900))
        page.set_default_timeout(40000)
        page.said, page.stranger, page.port, page.sent = errors_of(page), stranger, port, []
        page.on('websocket', lambda w: w.on('framesent', lambda data: page.sent.append(len(data))))
        page.goto(address, wait_until='commit')
        page.wait_for_selector('.sd-root[data-shown]', timeout=200000)
        yield page
        page.close()
    finally:
        server.terminate()
        server.wait(60)


def test_a_run_folder_is_served_to_its_owner_alone(served, work):
    assert '/login' in served.stranger
    for secret in ('api/kernels', 'voila/render/page.ipynb', '?token=wrong'):
        found = urllib.request.urlopen(f'http://127.0.0.1:{served.port}/{secret}').url
        assert '/login' in found, secret
    with socket.socket() as outside:  # no address of this machine but its own
        address = socket.gethostbyname(socket.gethostname())
        assert address.startswith('127.') or outside.connect_ex((address, served.port)) != 0
    served.wait_for_selector('.sd-root[data-epochs="1"]')
    served.wait_for_selector('.sd-root[data-shown="1"]')
    with open(work/'run'/'log.csv', 'a') as f: f.write('2,.3,.25,.8\n')
    served.wait_for_selector('.sd-root[data-epochs="2"]', timeout=10000)
    served.screenshot(path=SHOTS/'served.png')
    assert served.said == []


def without_camera(work):
    "What the page says of a picture that has lost its EXIF, if the models ask for a camera."
    if not load_model(work/'run').assumed_camera: return ''
    return 'its focal length is not known: original, fine-tuned assume 60 degrees vertically'


def test_any_picture_is_predicted(served, work):
    panel = served.locator('.sd-root:has([data-name="file"])')
    assert 'choose or upload a picture' in panel.locator('.sd-message').inner_text()
    panel.locator('[data-name="file"]').set_input_files(work/'toy'/'rgb'/'rgb_00003.png')
    panel.locator("canvas[data-key='pred:original']").hover()
    assert panel.locator('.sd-message').inner_text() == without_camera(work)
    titles = panel.locator('.sd-panel figcaption').all_inner_texts()
    assert titles == ['picture', 'original', 'fine-tuned']
    assert re.search(r'original\s+\d+\.\d+', panel.locator('[data-name="readout"]').inner_text())
    panel.screenshot(path=SHOTS/'predict.png')
    assert served.said == []


@contextmanager
def notebook_open(browser, lab, work, name, *cells):
    "Another notebook in the same JupyterLab, run; what the page sends is kept."
    write_notebook(work, *cells, name=f'{name}.ipynb')
    page = browser.new_page(viewport=dict(width=1300, height=1100))
    page.set_default_timeout(40000)
    page.said, page.sent = errors_of(page), []
    page.on('websocket', lambda w: w.on('framesent', lambda data: page.sent.append(len(data))))
    try:
        run_cells(page, lab.replace('look.ipynb', f'{name}.ipynb'))
        yield page
    finally: page.close()


PHOTOGRAPHS = {  # all larger than what a server of notebooks lets through
    'photo.jpg': ((3000, 4000, 3), np.uint8, dict(quality=100)),
    'deep.png': ((2600, 2600), np.uint16, dict(compress_level=1)),
    'scan.tif': ((2000, 2100, 3), np.uint8, {}),
}


def write_photographs(work: Path) -> dict[str, np.ndarray]:
    "Noise below a ramp, so that nothing makes the files small; the ramp at 1024 pixels."
    rng, ramps = np.random.default_rng(0), {}
    for name, (shape, kind, options) in PHOTOGRAPHS.items():
        top = np.iinfo(kind).max
        ramp = np.linspace(.1, .9, shape[1]).reshape(1, -1, *[1]*(len(shape) - 2))
        noisy = ramp*top + rng.uniform(-.1, .1, shape)*top
        Image.fromarray(noisy.astype(kind)).save(work/name, **options)
        assert (work/name).stat().st_size > 10*2**20, name
        ramps[name] = np.linspace(.1, .9, 1024)
    return ramps


def upload_all(page, work, sent: list):
    "Chooses each photograph; it arrives with its colours, in messages of 10 MB at most."
    panel = page.locator('.sd-root:has([data-name="file"])')
    for name, ramp in write_photographs(work).items():
        panel.locator('[data-name="file"]').set_input_files(work/name)
        page.wait_for_function("""name => [...document.querySelectorAll('.sd-root')].some((r) =>
            r.inspector?.shot?.title === name && r.inspector.shot.preds.length)""", arg=name,
                               timeout=90000)
        columns, message = page.evaluate("""() => {
          const it = [...document.querySelectorAll('.sd-root')].map((r) => r.inspector)
            .find((i) => i?.shot?.upload);
          const { rgb, width, height } = it.shot, found = new Array(width).fill(0);
          for (let v = 0; v < height; v++)
            for (let u = 0; u < width; u++) found[u] += rgb[3*(v*width + u)]/255/height;
          return [found, it.$('message').textContent];
        }""")
        assert message == '' and len(columns) == 1024, name
        assert np.abs(np.array(columns) - ramp).max() < .03, name
    assert max(sent) < 10*2**20


PREDICTOR = '''from synthdepth.inspector import PredictPanel

PredictPanel({'bright': lambda rgb: 1 + rgb.mean(1)})'''


FOCAL = '''from synthdepth.inspector import PredictPanel

class Focal:
    predicts, needs = 'metric', ('rgb', 'intrinsics')
    def __call__(self, rgb, intrinsics):
        return intrinsics[:, :1, None].nan_to_num(1).expand(len(rgb), *rgb.shape[2:])

PredictPanel({'focal': Focal()})'''


def test_a_photograph_that_the_browser_makes_smaller_keeps_its_focal_length(browser, lab, work):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xa405] = 26
    noise = np.random.default_rng(0).integers(0, 255, (2400, 3200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(work/'phone.jpg', quality=95, exif=exif)
    assert (work/'phone.jpg').stat().st_size > 2**22
    with notebook_open(browser, lab, work, 'focal', FOCAL) as page:
        page.locator('[data-name="file"]').set_input_files(work/'phone.jpg')
        page.wait_for_function("""() => document.querySelector('.sd-root').inspector?.shot?.title
            === 'phone.jpg'""")
        camera, known = page.evaluate("""() => {
          const { camera, camera_known } = document.querySelector('.sd-root').inspector.shot;
          return [camera, camera_known];
        }""")
        assert known and camera[0] == pytest.approx(26/(36**2 + 24**2)**.5*1280, rel=1e-3)
        assert page.said == []


def test_large_photographs_arrive_in_jupyterlab(browser, lab, work):
    write_notebook(work, PREDICTOR, name='any.ipynb')
    page = browser.new_page(viewport=dict(width=1300, height=1100))
    sent = []
    page.on('websocket', lambda w: w.on('framesent', lambda data: sent.append(len(data))))
    said = errors_of(page)
    open_notebook(page, lab.replace('look.ipynb', 'any.ipynb'))
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector('.sd-root [data-name="file"]', timeout=120000)
    upload_all(page, work, sent)
    big = page.evaluate("""() => {
      const it = document.querySelector('.sd-root').inspector;
      it.predict({ title: 'huge.tif' }, new Blob([new ArrayBuffer(LARGEST_PLUS)]));
      return it.$('message').textContent;
    }""".replace('LARGEST_PLUS', str(2**28 + 1)))
    assert 'huge.tif: 268 MB are too large to send: at most 268 MB' in big
    assert said == []
    page.close()


def test_large_photographs_arrive_at_the_served_page(served, work):
    upload_all(served, work, served.sent)
    assert served.said == []


ODD = '''from pathlib import Path
import torch
from synthdepth.inspector import DepthInspector

class Elsewhere:
    predicts = 'metric'
    def for_captures(self, captures, size, centre): return torch.full((len(captures), *size), 2.)

parts = {p.name: p for p in sorted(Path('odd').iterdir())}
DepthInspector(parts, {'theirs': Elsewhere()}, figures='odd figures #%/{1}')'''


def test_sizes_names_and_broken_files_beside_each_other(browser, lab, work):
    sizes = {'a wide=1': (96, 320), 'b tall {ü}': (320, 96), 'c #% square': (128, 128)}
    for name, size in sizes.items():
        write_synthdepth(work/'odd'/name, scenes=1, views=1, size=size, preset=name)
    broken = open_data(work/'odd'/'b tall {ü}').captures[0].rgb
    whole = broken.read_bytes()
    broken.write_bytes(whole[:len(whole)//2])
    with notebook_open(browser, lab, work, 'odd', ODD) as page:
        assert 'theirs: predicted elsewhere' in field(page, 'no-corruption').inner_text()
        for position, size in enumerate(sizes.values(), 1):
            if position > 1: press(page, 'ArrowRight')
            shown(page, position)
            if position == 2:
                assert 'not a whole picture' in field(page, 'message').inner_text()
                continue
            assert field(page, 'message').inner_text() == ''
            h, w = pixels(page, 'truth').shape[:2]
            assert w/h == pytest.approx(size[1]/size[0], rel=.03)
            page.wait_for_selector("canvas[data-key='pred:theirs']")
        field(page, 'png').click()
        wait_for(page, 'message', "it.textContent.includes('saved')")
        saved, = (work/'odd figures #%'/'{1}').iterdir()
        assert saved.name == 'c_#%_square-0-00000_view_0_(c_#%_square)_side.png'
        press(page, 'o')
        page.wait_for_function("document.querySelectorAll('.sd-thumb').length === 3")
        assert 'not a whole picture' in page.locator('.sd-thumb').nth(1).inner_text()
        press(page, 's')
        broken.write_bytes(whole)
        press(page, 'ArrowLeft')
        page.wait_for_function(f'() => {ROOT}.inspector.shot?.width === 96')
        assert field(page, 'message').inner_text() == ''
        assert page.said == []


JOBS = '''from dataclasses import replace
from pathlib import Path
from synthdepth.cluster.listing import JobRow, Progress
from synthdepth.cluster.watching import JobWidget

looks, progress = [], Progress(1, 2, 'epochs', .4)
row = JobRow(Path('jobs'), 0, 'seed-0', '12_0', 'running', 2, progress, '9:30', '', Path('run'),
             Path('log'))
others = [replace(row, task=i, name=f'seed-{i}', state='waiting', out=Path('nowhere'))
          for i in range(1, 40)]

def rows():
    looks.append(1)
    return [replace(row, starts=len(looks)), *others]

JobWidget(rows, period=.5)'''


def test_jobs_are_watched(browser, lab, work):
    "Forty tasks in a box that scrolls, their numbers above, the curves of one below."
    write_notebook(work, JOBS, name='jobs.ipynb')
    page = browser.new_page(viewport=dict(width=1200, height=900))
    page.set_default_timeout(30000)
    said = errors_of(page)
    open_notebook(page, lab.replace('look.ipynb', 'jobs.ipynb'))
    page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector('.sd-curves canvas', timeout=120000)
    there = page.locator('.jp-OutputArea')
    assert '40 tasks: 1 running, 39 waiting, at ' in there.inner_text()
    page.wait_for_function("""() => {
        const box = document.querySelector('.jp-OutputArea div[tabindex="0"]');
        return 100 < box?.clientHeight && box.clientHeight < 400 && 400 < box.scrollHeight;
    }""")  # the table scrolls by itself; it is put in anew twice a second
    page.wait_for_function("""() => document.querySelector('.jp-OutputArea tr:nth-child(2)')
        .children[2].innerText > 3""")  # starts, as the thread has counted them
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS/'jobs.png')
    there.locator('select').select_option(index=5)
    page.get_by_text('nowhere: there is no such folder').wait_for()
    assert there.locator('select').input_value() == 'seed-5'
    assert not said
    page.close()
