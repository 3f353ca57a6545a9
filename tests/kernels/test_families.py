"""No kernel without a test: each family has a file of tests that names every kernel in it."""

import importlib
import pkgutil
import re
from pathlib import Path

from baremetal import kernels
from baremetal.kernels.kernel import registry


def families() -> dict[str, set[str]]:
    """The names of the kernels by the file that declares them, be it imported elsewhere or not."""
    for module in pkgutil.iter_modules(kernels.__path__, kernels.__name__ + "."):
        importlib.import_module(module.name)
    found: dict[str, set[str]] = {}
    for kernel in registry().values():
        if kernel.__module__.startswith(kernels.__name__ + "."):  # tests declare some of their own
            found.setdefault(kernel.__module__.rpartition(".")[2], set()).add(kernel.name)
    return found


def test_every_family_has_a_file_of_tests_that_names_its_kernels():
    found = families()
    assert {"elementwise", "matmul", "attention", "optimizer"} <= set(found)
    for family, names in found.items():
        path = Path(__file__).with_name(f"test_{family}.py")
        assert path.exists(), f"kernels/{family}.py declares {names}: there is no {path.name}"
        words = set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
        assert names <= words, f"{path.name} does not name {names - words}"


def test_every_kernel_has_a_compiled_version_and_a_cost():
    for family, names in families().items():
        native = importlib.import_module(f"{kernels.__name__}.native.{family}")
        for name in names:
            assert callable(getattr(native, name, None)), f"no {name} in native/{family}.py"
            assert registry()[name]._cost is not None, f"{name} has no cost"
