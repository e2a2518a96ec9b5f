"The inspector's speed in a real browser: opening 3,000 captures, and from a key press to the painted picture."
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from toy import write_synthdepth

SIZE, CAPTURES, STEPS = (480, 640), 3000, 20
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
        for kind in ('rgb', 'depth'): (few/kind/f'{kind}_{i:05d}.png').symlink_to(few/kind/f'{kind}_{i % 10:05d}.png')
        lines.append(lines[i % 10] | dict(rgb_file_name=f'rgb/rgb_{i:05d}.png', depth_file_name=f'depth/depth_{i:05d}.png',
                                          scene=f'toy-0-{i//5:05d}', view=i % 5))
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
  while (!document.querySelector('.sd-root[data-shown]')) await new Promise((f) => setTimeout(f, 5));
  return performance.now() - start;
}'''


def press(page, key: str, wait: float) -> float:
    "Milliseconds from the browser's key event to the frame that shows the next capture."
    page.wait_for_timeout(wait)
    before = page.evaluate("() => document.querySelector('.sd-root').dataset.shown")
    page.keyboard.press(key)
    page.wait_for_function("before => document.querySelector('.sd-root').dataset.shown !== before", arg=before)
    return float(page.locator('.sd-root').get_attribute('data-ms'))


def held(page, key: str) -> list[float]:
    "The same while a key is held down: pressed again as soon as the picture is there."
    return [press(page, key, 0) for _ in range(STEPS - 1)]


def measure(root: Path) -> tuple[float, dict[str, list]]:
    "Milliseconds to open the large set, and to step; two models, predictions cached in the kernel where not said otherwise."
    import test_browser as t
    from playwright.sync_api import sync_playwright
    write_synthdepth(root/'toy', scenes=STEPS//2, views=2, size=SIZE)
    t.write_notebook(root, IMPORTS, "DepthInspector('many')", "DepthInspector('toy', models)")
    with t.start_lab(root) as address, sync_playwright() as p:
        plain = [a for a in t.ARGS if 'gl' not in a and 'gpu' not in a]  # as on a machine without a graphics card
        chromium = p.chromium.launch(executable_path=t.CHROMIUM, args=[*plain, '--disable-gpu'])
        page = chromium.new_page(viewport=dict(width=1500, height=1100))
        page.set_default_timeout(60000)
        t.open_notebook(page, address)
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')")
        opened = page.evaluate(OPEN)
        page.evaluate("""async () => {
          const run = (what) => window.jupyterapp.commands.execute(`notebook:${what}`);
          await run('clear-cell-output');
          await run('move-cursor-down');
          void run('run-cell');
        }""")
        page.wait_for_selector('.sd-root[data-shown="1"]')
        page.locator('.sd-root').focus()
        page.evaluate("() => { const it = document.querySelector('.sd-root').inspector; it.ahead = () => {}; }")
        found = {'first look, both models predict': [press(page, 'ArrowRight', 50) for _ in range(STEPS - 1)]}
        page.evaluate("""() => {
          const it = document.querySelector('.sd-root').inspector, go = it.go.bind(it);
          it.go = (...a) => { it.kept.clear(); go(...a); };
        }""")
        found['cached, asked of the kernel'] = [press(page, 'ArrowLeft', 50) for _ in range(STEPS - 1)]
        page.evaluate("() => { const it = document.querySelector('.sd-root').inspector; delete it.go; delete it.ahead; }")
        found['cached, sent ahead, five a second'] = [press(page, 'ArrowRight', 200) for _ in range(STEPS - 1)]
        found['cached, sent ahead, key held down'] = held(page, 'ArrowLeft')
        chromium.close()
    return opened, found


if __name__ == '__main__':
    if not shutil.which('chromium'): sys.exit('no chromium here, so nothing was measured (Debian: apt-get install chromium)')
    with tempfile.TemporaryDirectory() as folder:
        reading = read_all(write_large(Path(folder)))
        opened, found = measure(Path(folder))
    print(f'{CAPTURES} captures: first picture {opened/1000:.2f} s after the cell was run (target 2 s), '
          f'{opened/1000/reading:.4f} of the {reading:.0f} s that reading all would take')
    for name, ms in found.items():
        median, worst = statistics.median(ms), sorted(ms)[int(.95*len(ms))]
        print(f'step, {name}: median {median:.0f} ms, 95 % under {worst:.0f} ms ({median/150:.2f} of the target of 150 ms)')
