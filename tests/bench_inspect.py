"The inspector's speed: opening 3,000 captures, and from a key press to the painted picture in a real browser."
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from toy import write_synthdepth

SIZE, CAPTURES = (480, 640), 3000


def open_large(root: Path) -> dict:
    "Seconds to open a set of many captures and send its first page."
    few = write_synthdepth(root/'few', scenes=5, views=2, size=SIZE)
    lines = [json.loads(line) for line in (few/'metadata.jsonl').read_text().splitlines()]
    for i in range(len(lines), CAPTURES):
        for kind, folder in (('rgb', 'rgb'), ('depth', 'depth')):
            (few/folder/f'{kind}_{i:05d}.png').symlink_to(few/folder/f'{kind}_{i % 10:05d}.png')
        lines.append(lines[i % 10] | dict(rgb_file_name=f'rgb/rgb_{i:05d}.png', depth_file_name=f'depth/depth_{i:05d}.png',
                                          scene=f'toy-0-{i//5:05d}', view=i % 5))
    (few/'metadata.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    info = json.loads((few/'dataset.json').read_text())
    (few/'dataset.json').write_text(json.dumps(info | dict(captures=CAPTURES, scenes=CAPTURES//5)))
    from synthdepth.inspect import DepthInspector
    start = time.perf_counter()
    inspector = DepthInspector(few)
    made = time.perf_counter() - start
    inspector.widget.send = lambda *_: None
    inspector._asked(None, dict(kind='ready'), [])
    total = time.perf_counter() - start
    assert len(inspector.looks) == CAPTURES
    start = time.perf_counter()
    for i in range(10): inspector.looks.data[i]
    return dict(made=made, first=total, one=(time.perf_counter() - start)/10)


STEPS = '''async ([keys, kernel, wait]) => {
  const root = document.querySelector('.sd-root'), it = root.inspector, out = [];
  const pause = (ms) => new Promise((f) => setTimeout(f, ms));
  it.ahead = kernel ? () => {} : Object.getPrototypeOf(it).ahead;
  for (const key of keys) {
    await pause(wait);
    if (kernel) it.kept.clear();
    const before = root.dataset.shown, start = performance.now();
    root.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    while (root.dataset.shown === before && performance.now() - start < 5000) await pause(0);
    out.push(performance.now() - start);
  }
  return out;
}'''


def steps(root: Path) -> dict[str, list]:
    "Milliseconds from key press to painted picture in JupyterLab, two models, predictions cached in the kernel."
    import test_browser as t
    from playwright.sync_api import sync_playwright
    write_synthdepth(root/'toy', scenes=10, views=2, size=SIZE)
    t.write_notebook(root)
    right, left = ['ArrowRight']*19, ['ArrowLeft']*19
    with t.start_lab(root) as address, sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=t.CHROMIUM, args=t.ARGS)
        page = chromium.new_page(viewport=dict(width=1500, height=1100))
        t.run_cells(page, address)
        page.evaluate(STEPS, [right, True, 0])
        found = {'asked of the kernel': page.evaluate(STEPS, [left, True, 50])}
        found['sent ahead, five a second'] = page.evaluate(STEPS, [right, False, 200])
        found['sent ahead, key held down'] = page.evaluate(STEPS, [left, False, 0])
        chromium.close()
    return found


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder: large = open_large(Path(folder))
    print(f'{CAPTURES} captures: made in {large["made"]:.2f} s, first capture sent after {large["first"]:.2f} s (target 2 s), '
          f'{large["first"]/(CAPTURES*large["one"]):.3f} of the time to read them all')
    if not shutil.which('chromium'): sys.exit('no chromium here, so no steps were measured')
    with tempfile.TemporaryDirectory() as folder: found = steps(Path(folder))
    for name, ms in found.items():
        median, worst = statistics.median(ms), sorted(ms)[int(.95*len(ms))]
        print(f'step, {name}: median {median:.0f} ms, 95 % under {worst:.0f} ms ({median/150:.2f} of the target of 150 ms)')
