"""Training, evaluation and predictions on a machine that has torch and no Ray."""

import subprocess
import sys

from source_files import ROOT


def test_training_runs_where_ray_and_optuna_are_not_installed():
    code = (
        "import sys\n"
        "sys.modules['ray'] = sys.modules['optuna'] = None\n"  # makes importing them an ImportError
        "import ensemble.training.member, ensemble.data.prepare, ensemble.evaluate\n"
        "import ensemble.predict, ensemble.train, ensemble.recall\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
