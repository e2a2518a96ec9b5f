import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def real() -> Path:
    "The folder of real RGB-D excerpts; tests that need it skip where it is absent."
    path = Path(os.environ.get('SYNTHDEPTH_REAL', ROOT.parent/'shared'/'real'))
    if not path.is_dir(): pytest.skip(f'no real pictures at {path} (set SYNTHDEPTH_REAL)')
    return path


@pytest.fixture
def one_thread():
    "Small tensors are slower on several threads, the more so beside other tests."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
