import subprocess
import sys
from pathlib import Path

import datasets


def test_datasets_is_ours_and_not_the_hugging_face_package():
    assert Path(datasets.__file__).parent == Path(__file__).parent.parent / "datasets"


def test_import_loads_neither_tensorflow_nor_pillow_nor_other_packages_of_ours():
    code = (
        "import sys, datasets, datasets.batches, datasets.card; "
        "print(sorted({m.split('.')[0] for m in sys.modules} "
        "& {'tensorflow', 'keras', 'PIL', 'hybrid', 'nas', 'firmware_export'}))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
