import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
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


SLURM = ('munged', 'slurmctld', 'slurmd', 'sbatch')  # Debian: munge slurmctld slurmd slurm-client


@dataclass
class Cluster:
    "A SLURM cluster of two nodes on this machine."
    folder: Path            # its configuration and logs
    environment: dict[str, str]  # what sbatch, squeue and scontrol need, SLURM_CONF

    def ask(self, *command: str) -> str:
        "What one of SLURM's commands prints."
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True,
                              text=True, timeout=60)
        assert done.returncode == 0, f'{command}: {done.stderr}'
        return done.stdout


@pytest.fixture(scope='session')
def slurm():
    "A running cluster; tests that need it skip where SLURM is not installed."
    path = os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin'])
    missing = [tool for tool in SLURM if not shutil.which(tool, path=path)]
    if missing:
        pytest.skip(f'not installed: {", ".join(missing)} (Debian, Ubuntu: '
                    'apt-get install slurmctld slurmd slurm-client munge)')
    scripts = ROOT/'tests'/'slurm'
    # pytest's own folders are closed to others, which munged refuses, and long for a socket.
    with tempfile.TemporaryDirectory(prefix='sd-slurm-', dir='/tmp') as place:
        os.chmod(place, 0o755)
        folder = Path(place)/'c'
        started = subprocess.run([scripts/'start.sh', folder], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, timeout=120)
        if started.returncode: pytest.fail(f'SLURM did not start: {started.stdout[-2000:]}')
        try: yield Cluster(folder, dict(SLURM_CONF=str(folder/'slurm.conf')))
        finally: subprocess.run([scripts/'stop.sh', folder], timeout=120)
