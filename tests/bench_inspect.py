"The inspector in a real browser: opening 3,000 captures, and from a key press to the picture."
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from toy import write_synthdepth

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


if __name__ == '__main__':
    if not shutil.which('chromium'):
        sys.exit('no chromium here, so nothing was measured (Debian: apt-get install chromium)')
    with tempfile.TemporaryDirectory() as folder:
        reading = read_all(write_large(Path(folder)))
        opened, found = measure(Path(folder))
    print(f'{CAPTURES} captures: first picture {opened/1000:.2f} s after the cell was run '
          f'(target 2 s), {opened/1000/reading:.4f} of the {reading:.0f} s '
          'that reading all would take')
    for name, ms in found.items():
        median, worst = statistics.median(ms), sorted(ms)[int(.95*len(ms))]
        share = f'{median/150:.2f} of the target of 150 ms'
        print(f'step, {name}: median {median:.0f} ms, 95 % under {worst:.0f} ms ({share})')
