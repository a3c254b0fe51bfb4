"""Import every module of the package, so that no file can be broken and green."""

import importlib
import pkgutil
import sys

import tether

names = [
    module.name
    for module in pkgutil.walk_packages(tether.__path__, "tether.")
    if not module.name.endswith("__main__")
]
for name in names:
    importlib.import_module(name)
print(f"imports: {len(names)} modules")
sys.exit(0)
