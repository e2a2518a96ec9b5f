"The book: `make book` builds the notebooks as they are stored, and the reference, with Sphinx."
import re
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(HERE.parent/'settings.ini', encoding='utf-8')
settings = ini['DEFAULT']

project, release = settings['title'], settings['version']
author = copyright = settings['copyright']
extensions = ['myst_nb', 'sphinx_external_toc', 'sphinx_copybutton', 'sphinx.ext.autodoc',
              'sphinx.ext.viewcode']
external_toc_path = '_toc.yml'
exclude_patterns = ['**.ipynb_checkpoints']

nb_execution_mode = 'off'        # a stored notebook is one that ran from top to bottom
nb_merge_streams = True
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type']

html_theme = 'sphinx_book_theme'
html_title = project
html_theme_options = dict(repository_url=settings['git_url'], use_repository_button=True,
                          path_to_docs='nbs', show_navbar_depth=1)
html_last_updated_fmt = None

# The reference: a page for each package, a section for each module, in the order of the notebooks.
PACKAGE = HERE.parent/'synthdepth'
NUMBERED = '[0-9]*.ipynb'
SECTION = '## `{0}`\n\n```{{eval-rst}}\n.. automodule:: {0}\n   :members:\n```\n'


def modules_of(folder: Path) -> list[str]:  # dotted names
    "The modules that the notebooks of a chapter export, in reading order."
    texts = [path.read_text(encoding='utf-8') for path in sorted(folder.glob(NUMBERED))]
    names = [re.search(r'#\| default_exp ([\w.]+)', text) for text in texts]
    return [f'synthdepth.{name[1]}' for name in names if name]


def write_reference(app):
    "Pages that ask autodoc for every module; made before Sphinx looks for its sources."
    chapters = {'Read by all': HERE}
    chapters |= {p.name[2:].capitalize(): p for p in sorted(HERE.glob('[0-9]_*'))}
    (HERE/'api').mkdir(exist_ok=True)
    for number, (title, folder) in enumerate(chapters.items()):
        sections = [SECTION.format(m) for m in modules_of(folder)]
        text = f'# {title}\n\n' + '\n'.join(sections)
        if sections: (HERE/'api'/f'{number}_reference.md').write_text(text, encoding='utf-8')


def as_rst(text: str) -> str:
    "Plain text with `code` as reStructuredText, in which *, | and a trailing _ mean something."
    parts = text.split('`')
    plain = [re.sub(r'([*|\\]|_(?!\w))', r'\\\1', part) for part in parts[::2]]
    code = [f'``{part}``' for part in parts[1::2]]
    return ''.join(x for pair in zip(plain, [*code, '']) for x in pair)


def describe(app, what, name, thing, options, lines):
    "The docstring, and the comments beside the parameters as their descriptions."
    from fastcore.docments import docments
    lines[:] = map(as_rst, lines)
    if what not in ('function', 'method', 'class'): return
    try: comments = docments(thing)
    except (TypeError, ValueError, OSError): return
    lines.append('')
    for name, text in comments.items():
        field = 'returns' if name == 'return' else f'param {name}'
        if text: lines.append(f':{field}: {as_rst(text)}')


def setup(app):
    write_reference(app)
    app.connect('autodoc-process-docstring', describe)
