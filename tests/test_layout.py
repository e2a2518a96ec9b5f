"The house: chapters import only what stands before them, by public names; cells can be read."
import ast
import inspect
import json
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT/'synthdepth'
CHAPTERS = [p.name[2:] for p in sorted((ROOT/'nbs').glob('[0-9]_*'))]
SHARED = ('errors', 'files', 'camera', 'colour', 'machine', 'signals')  # all may read them
MODULES = [p for p in sorted(PACKAGE.rglob('*.py')) if p.name not in ('__init__.py', '_modidx.py')]
NOTEBOOKS = sorted((ROOT/'nbs').glob('**/[0-9]*.ipynb'))
COLUMNS = 100


def imports(path: Path) -> list[tuple[str, str]]:
    "What a module imports from this package: (module without 'synthdepth.', name)."
    here, found = ('synthdepth', *path.relative_to(PACKAGE).parts[:-1]), []
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom):
            base = here[:len(here) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *([node.module] if node.module else [])])
            if module.split('.')[0] != 'synthdepth': continue
            found += [(module[11:], a.name) for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith('synthdepth.')]
            found += [(name[11:], '') for name in names]
    return found


def name_of(path: Path) -> str: return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_a_chapter_imports_only_what_stands_before_it(path):
    chapter = path.parent.name if path.parent != PACKAGE else None
    for module, name in imports(path):
        first, *rest = module.split('.')
        what = f'{name_of(path)} imports {module}.{name}'
        assert not name.startswith('_'), f'{what}, which is private'
        if first == chapter:
            assert rest, f'{what} from its own package: name the module'
            continue
        assert not rest, f'{what}: what a chapter offers others stands in its package'
        if chapter is None: assert name_of(path) not in SHARED or first in SHARED, what
        elif first not in SHARED:
            assert first in CHAPTERS[:CHAPTERS.index(chapter)], f'{what}, which comes later'


def test_no_circle_of_imports():
    graph = {name_of(p): {m for m, _ in imports(p)} for p in MODULES}

    def visit(name, path):
        assert name not in path, f'a circle of imports: {" -> ".join([*path, name])}'
        for other in sorted(graph.get(name, ())): visit(other, [*path, name])

    for name in graph: visit(name, [])


def test_modules_follow_the_order_of_their_notebooks():
    order = {}
    for path in NOTEBOOKS:
        found = re.search(r'#\| default_exp ([\w.]+)', path.read_text(encoding='utf-8'))
        if found: order[found[1]] = len(order)
    for path in MODULES:
        for module, _ in imports(path):
            if module in order:
                assert order[module] < order[name_of(path)], f'{name_of(path)} imports {module}'


@pytest.mark.parametrize('chapter', [c for c in CHAPTERS if (PACKAGE/c).is_dir()])
def test_what_a_package_offers_is_there(chapter):
    package = __import__(f'synthdepth.{chapter}', fromlist=['x'])
    modules = {p.stem for p in (PACKAGE/chapter).glob('*.py')}
    assert package.__all__
    assert not modules & set(package.__all__), 'a name and a module are called the same'
    for name in package.__all__: assert getattr(package, name) is not None


# cells

def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [''.join(c['source']) for c in cells if c['cell_type'] == 'code']


def only_imports(source: str) -> bool:
    tree = ast.parse(re.sub(r'(?m)^[%!].*$', '', source))
    return all(isinstance(node, (ast.Import, ast.ImportFrom, ast.Try)) for node in tree.body)


def kind(source: str) -> str:
    "'export', 'lesson', or '' for imports and what nbdev alone reads."
    if re.match(r'#\| *export', source): return '' if only_imports(source) else 'export'
    return '' if re.match(r'#\| *(default_exp|hide)', source) or only_imports(source) else 'lesson'


def lines(source: str) -> int: return sum(bool(line.strip()) for line in source.splitlines())


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_cells_are_short_and_followed_by_lessons(path):
    in_a_row = 0
    for source in code_cells(path):
        if not (what := kind(source)): continue
        assert what == 'lesson' or lines(source) <= 40, f'{lines(source)} lines:\n{source[:200]}'
        in_a_row = in_a_row + 1 if what == 'export' else 0
        assert in_a_row < 3, f'three exported cells and no lesson, up to:\n{source[:200]}'


def test_cells_in_all():
    cells = [source for path in NOTEBOOKS for source in code_cells(path)]
    exported = [lines(s) for s in cells if kind(s) == 'export']
    lessons = [s for s in cells if kind(s) == 'lesson']
    assert median(exported) <= 12
    assert len(lessons) >= 1.5*len(exported), f'{len(lessons)} lessons for {len(exported)} exports'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_lines_of_code_are_at_most_100_columns(path):
    for source in code_cells(path):
        for line in source.splitlines(): assert len(line) <= COLUMNS, line


def public_functions(module):
    "The functions of a module's __all__ and the methods of its classes, by name."
    for name in module.__all__:
        thing = getattr(module, name)
        if getattr(thing, '__module__', '') != module.__name__: continue
        if inspect.isfunction(thing): yield name, thing
        elif inspect.isclass(thing):
            for method, function in vars(thing).items():
                public = method == '__init__' or not method.startswith('_')
                if not inspect.isfunction(function) or not public: continue
                if function.__code__.co_filename != module.__file__: continue  # made by dataclass
                # told there
                if any(hasattr(base, method) for base in thing.__mro__[1:-1]): continue
                yield f'{name}.{method}', function


@pytest.mark.parametrize('path', [p for p in MODULES if p.stem != 'cli'], ids=name_of)
def test_every_public_parameter_is_described(path):
    "cli describes its parameters to typer."
    from fastcore.docments import docments
    module, missing = __import__(f'synthdepth.{name_of(path)}', fromlist=['x']), []
    for name, function in public_functions(module):
        comments = docments(function, args_kwargs=True)
        kinds = {p.name: p.kind for p in inspect.signature(function).parameters.values()}
        for parameter, kind in kinds.items():  # docments does not read those before a slash
            if parameter in ('self', 'cls') or kind is inspect.Parameter.POSITIONAL_ONLY: continue
            if not comments.get(parameter): missing.append(f'{name}: {parameter}')
    assert not missing, f'parameters without a comment: {missing}'
