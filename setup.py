"Packaging: every value comes from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ini = ConfigParser(delimiters=['='])
ini.read('settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']


def lines(key): return cfg.get(key, '').strip().splitlines()


setup(name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
      license=cfg['license'].upper(), author=cfg['author'], author_email=cfg['author_email'],
      keywords=cfg['keywords'].split(), python_requires='>=' + cfg['min_python'],
      long_description=Path('README.md').read_text(encoding='utf-8')
      if Path('README.md').exists() else '',
      long_description_content_type='text/markdown',
      packages=find_packages(include=['synthdepth', 'synthdepth.*']),
      package_data={'synthdepth': ['profiles/*'], 'synthdepth.models': ['weights/*'],
                    'synthdepth.inspector': ['static/*']},
      data_files=[(f'share/synthdepth/{chapter}', sorted(map(str, chapter.glob('*.ipynb'))))
                  for chapter in [Path('nbs'), *sorted(Path('nbs').glob('[0-9]_*'))]],
      install_requires=lines('requirements'),
      extras_require={'dev': lines('dev_requirements'),
                      'diffusion': lines('diffusion_requirements'),
                      'train-tiny': lines('train_tiny_requirements')},
      entry_points={'console_scripts': lines('console_scripts'),
                    'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]})
