"""What pyproject.toml cannot say: a wheel carries the examples that b4m.core.where looks for inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = ("world/base", "world/encoders", "references", "configs")


class WithExamples(build_py):
    """The packages, and beside them `b4m/examples`; an editable install reads the clone's own."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in SHIPPED:
            target = Path(self.build_lib, "b4m/examples", name)
            shutil.rmtree(target, ignore_errors=True)  # what an earlier build has left
            shutil.copytree(Path("examples", name), target)


setup(cmdclass={"build_py": WithExamples})
