"""The inspector: opening 3,000 captures and stepping in a real browser, and memory at full HD.

--memory: the memory alone, without a browser; --figures: writes figures/inspector/*.png anew.
"""
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from toy import write_synthdepth

ROOT_FOLDER = Path(__file__).resolve().parents[1]
FULL_HD, LOOKED_AT = (1080, 1920), 64
SIZE, CAPTURES, STEPS = (480, 640), 3000, 20
ROOT = "document.querySelector('.sd-root')"
IMPORTS = '''import time
from synthdepth.inspector import DepthInspector
from synthdepth.models import create_model
tiny = create_model('tiny')
models = {'tiny': tiny, 'mirrored': lambda rgb: tiny(rgb.flip(-1)).flip(-1)}'''


def write_large(root: Path) -> Path:
    "A set of many captures; ten pictures under many names."
    few = write_synthdepth(root/'many', scenes=5, views=2, size=SIZE)
    lines = [json.loads(line) for line in (few/'metadata.jsonl').read_text().splitlines()]
    for i in range(len(lines), CAPTURES):
        for kind in ('rgb', 'depth'):
            (few/kind/f'{kind}_{i:05d}.png').symlink_to(few/kind/f'{kind}_{i % 10:05d}.png')
        names = {f'{k}_file_name': f'{k}/{k}_{i:05d}.png' for k in ('rgb', 'depth')}
        lines.append(lines[i % 10] | names | dict(scene=f'toy-0-{i//5:05d}', view=i % 5))
    (few/'metadata.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    info = json.loads((few/'dataset.json').read_text())
    (few/'dataset.json').write_text(json.dumps(info | dict(captures=CAPTURES, scenes=CAPTURES//5)))
    return few


def read_all(few: Path) -> float:
    "Seconds that reading every capture would take: the baseline of not reading them."
    from synthdepth.data import open_data
    data, start = open_data(few), time.perf_counter()
    for i in range(10): data[i]
    return (time.perf_counter() - start)/10*CAPTURES


OPEN = '''async () => {
  const start = performance.now();
  void window.jupyterapp.commands.execute('notebook:run-cell');
  const shown = () => document.querySelector('.sd-root[data-shown]');
  while (!shown()) await new Promise((f) => setTimeout(f, 5));
  return performance.now() - start;
}'''


def press(page, key: str, wait: float) -> float:
    "Milliseconds from the browser's key event to the frame that shows the next capture."
    page.wait_for_timeout(wait)
    before = page.evaluate("() => document.querySelector('.sd-root').dataset.shown")
    page.keyboard.press(key)
    page.wait_for_function(f'before => {ROOT}.dataset.shown !== before', arg=before)
    return float(page.locator('.sd-root').get_attribute('data-ms'))


def steps(page, key: str, wait: float) -> list[float]:
    "The same for every capture; no wait is a key held down: pressed once the picture is there."
    return [press(page, key, wait) for _ in range(STEPS - 1)]


def measure(root: Path) -> tuple[float, dict[str, list]]:
    "Milliseconds to open the large set, and to step with two models, predictions mostly cached."
    import test_browser as t
    from playwright.sync_api import sync_playwright
    write_synthdepth(root/'toy', scenes=STEPS//2, views=2, size=SIZE)
    t.write_notebook(root, IMPORTS, "DepthInspector('many')", "DepthInspector('toy', models)")
    with t.start_lab(root) as address, sync_playwright() as p:
        # As on a machine without a graphics card.
        plain = [a for a in t.ARGS if 'gl' not in a and 'gpu' not in a]
        chromium = p.chromium.launch(executable_path=t.CHROMIUM, args=[*plain, '--disable-gpu'])
        page = chromium.new_page(viewport=dict(width=1500, height=1100))
        page.set_default_timeout(60000)
        t.open_notebook(page, address)
        run_first = "window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')"
        page.evaluate(f'() => {run_first}')
        opened = page.evaluate(OPEN)
        page.evaluate("""async () => {
          const run = (what) => window.jupyterapp.commands.execute(`notebook:${what}`);
          await run('clear-cell-output');
          await run('move-cursor-down');
          void run('run-cell');
        }""")
        page.wait_for_selector('.sd-root[data-shown="1"]')
        page.locator('.sd-root').focus()
        page.evaluate(f'() => {{ {ROOT}.inspector.ahead = () => {{}}; }}')
        found = {'first look, both models predict': steps(page, 'ArrowRight', 50)}
        page.evaluate("""() => {
          const it = document.querySelector('.sd-root').inspector, go = it.go.bind(it);
          it.go = (...a) => { it.kept.clear(); go(...a); };
        }""")
        found['cached, asked of the kernel'] = steps(page, 'ArrowLeft', 50)
        page.evaluate(f'() => {{ const it = {ROOT}.inspector; delete it.go; delete it.ahead; }}')
        found['cached, sent ahead, five a second'] = steps(page, 'ArrowRight', 200)
        found['cached, sent ahead, key held down'] = steps(page, 'ArrowLeft', 0)
        chromium.close()
    return opened, found


def resident() -> float:
    "Megabytes of this process in memory."
    return int(Path('/proc/self/statm').read_text().split()[1])*4096/1e6


def measure_memory(root: Path) -> tuple[float, float]:
    "Megabytes that looking at 64 full-HD captures with two models adds, and those it accounts for."
    from synthdepth.inspector import DepthInspector
    few = write_synthdepth(root/'full_hd', scenes=8, views=8, size=FULL_HD)
    models = {'near': lambda rgb: 2 + rgb.mean(1), 'far': lambda rgb: 6 + rgb.mean(1)}
    inspector = DepthInspector(few, models)
    inspector.send = lambda message, buffers=None: None
    inspector.receive(None, dict(kind='ready'), [])
    gc.collect()
    start = resident()
    for position in range(2, LOOKED_AT + 1):
        inspector.receive(None, dict(kind='show', position=position), [])
    gc.collect()
    comparisons = inspector.comparisons
    caches = inspector.encodings.recent, comparisons.raw, comparisons.recent
    return resident() - start, sum(cache.bytes for cache in caches)/1e6


def report_memory(root: Path):
    from synthdepth.inspector.comparisons import MEMORY
    added, held = measure_memory(root)
    unbounded = 91.1*LOOKED_AT  # what version 0.1 kept of each: measured in the same way
    print(f'{LOOKED_AT} full-HD captures, two models: {added:.0f} MB more in memory, {held:.0f} MB '
          f'of them counted (bound {MEMORY} MB); {added/unbounded:.3f} of keeping all')


# figures of the page

FIGURES = ROOT_FOLDER/'figures'/'inspector'
FIGURE_CELL = '''from synthdepth.inspector import DepthInspector, open_run
DepthInspector('rooms', open_run('run')['models'])'''
MONITOR_CELL = '''from synthdepth.inspector import TrainingMonitor
TrainingMonitor('run')'''


def prepare_figures(root: Path):
    "Rooms nobody trained on, and a short fine-tune of tiny on abstract scenes."
    from synthdepth.models import create_model
    from synthdepth.scenes import render_dataset
    from synthdepth.training import RECIPES, finetune
    render_dataset(root/'rooms', 'rooms', scenes=6, views=1, size=SIZE, seed=77, spp=8)
    abstract = dict(camera=(0., 1.55, 5.), size=(192, 256), seed=7, spp=8)
    render_dataset(root/'abstract', 'published', scenes=16, views=2, **abstract)
    recipe = replace(RECIPES['corrected'], epochs=12, batch_size=8, lr=3e-4, patience=12)
    finetune(create_model('tiny'), root/'abstract', recipe, root/'run', 'tiny', progress='lines')


def picture_of(page, name: str):
    page.wait_for_timeout(500)
    page.locator('.sd-root').screenshot(path=FIGURES/f'{name}.png')


def draw_inspector(page, t):
    "Side by side, as clouds, and the worst in fog."
    t.point(page, 'pred:fine-tuned', 332, 297)
    picture_of(page, 'side')
    t.press(page, 'c')
    page.wait_for_function("document.querySelector('.sd-root').dataset.points")
    picture_of(page, 'cloud')
    t.field(page, 'ink').select_option('error')
    picture_of(page, 'cloud_error')
    t.press(page, 's')
    t.field(page, 'corruption').select_option('fog')
    t.field(page, 'severity').select_option('4')
    t.field(page, 'score').click()
    t.wait_for(page, 'progress', 'it.hidden', timeout=300000)
    t.field(page, 'sort').select_option('rmse')
    t.wait_for(page, 'message', "it.textContent === ''")
    page.mouse.move(5, 5)
    picture_of(page, 'worst_in_fog')


def draw_figures(root: Path):
    import test_browser as t
    from playwright.sync_api import sync_playwright
    prepare_figures(root)
    t.write_notebook(root, FIGURE_CELL)
    t.write_notebook(root, MONITOR_CELL, name='monitor.ipynb')
    with t.start_lab(root) as address, sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=t.CHROMIUM, args=t.ARGS)
        page = chromium.new_page(viewport=dict(width=1500, height=1100))
        page.set_default_timeout(60000)
        t.run_cells(page, address)
        draw_inspector(page, t)
        page.close()
        page = chromium.new_page(viewport=dict(width=1500, height=1100))
        t.open_notebook(page, address.replace('look.ipynb', 'monitor.ipynb'))
        page.evaluate("() => void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector('.sd-root[data-epochs]', timeout=120000)
        picture_of(page, 'training')
        chromium.close()
    print(*sorted(str(file.relative_to(ROOT_FOLDER)) for file in FIGURES.iterdir()), sep='\n')


def main(asked: list[str]):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if '--figures' not in asked: report_memory(root)
        if '--memory' in asked: return
        if not any(map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))):
            sys.exit('no chromium here, so nothing was drawn (Debian: apt-get install chromium)')
        if '--figures' in asked: draw_figures(root)
        else: report_speed(root)


def report_speed(root: Path):
    reading = read_all(write_large(root))
    opened, found = measure(root)
    print(f'{CAPTURES} captures: first picture {opened/1000:.2f} s after the cell was run '
          f'(target 2 s), {opened/1000/reading:.4f} of the {reading:.0f} s '
          'that reading all would take')
    for name, ms in found.items():
        median, worst = statistics.median(ms), sorted(ms)[int(.95*len(ms))]
        share = f'{median/150:.2f} of the target of 150 ms'
        print(f'step, {name}: median {median:.0f} ms, 95 % under {worst:.0f} ms ({share})')


if __name__ == '__main__': main(sys.argv[1:])
