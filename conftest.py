"""Leave out the examples of solvers and bridges whose packages are not installed."""

import importlib.util

NEEDS = {
    "solvers/primme.py": "primme",
    "solvers/primme_svd.py": "primme",
    "solvers/slepc.py": "slepc4py",
    "solvers/lanczos.py": "matfree",
    "petsc/__init__.py": "slepc4py",
    "petsc/_entries.py": "slepc4py",
    "petsc/_solver.py": "slepc4py",
    "petsc/_state.py": "slepc4py",
    "bridges/_torch.py": "torch",
    "bridges/_autograd.py": "autograd",
}
collect_ignore = [
    f"src/implicit_eig/{file}"
    for file, package in NEEDS.items()
    if importlib.util.find_spec(package) is None
]
