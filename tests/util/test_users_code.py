import sysconfig
from pathlib import Path

import pytest

import runner
from runner.util.users_code import is_users


def written(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("")
    return str(file)


@pytest.mark.parametrize(
    ("module", "file"),
    [("json.decoder", "anywhere/json/decoder.py"), ("torch.nn", "src/torch/nn.py"), ("m", "<string>"), ("m", "")],
)
def test_what_belongs_to_python_or_a_library_is_known_by_its_name(module: str, file: str) -> None:
    assert not is_users(module, file)


def test_runner_is_not_the_user_s() -> None:
    assert not is_users("runner.errors", str(Path(runner.__file__).with_name("errors.py")))


@pytest.mark.parametrize("name", ["site-packages", "dist-packages"])
def test_packages_of_another_environment_are_installed(tmp_path: Path, name: str) -> None:
    # A .pth file, or PYTHONPATH, names the environment; this one does not know it.
    assert not is_users("other.part", written(tmp_path / "lib" / "python3" / name / "other" / "part.py"))


def test_beside_packages_in_a_plain_folder_only_what_pip_has_written_is_installed(tmp_path: Path) -> None:
    for package, single in (("one", "two.py"),):
        record = tmp_path / f"{package}-1.0.dist-info" / "RECORD"
        written(record)
        record.write_text(f"{package}/__init__.py,sha256=abc,10\n{single},,\n{package}-1.0.dist-info/RECORD,,\n")
    assert not is_users("one", written(tmp_path / "one" / "__init__.py"))
    assert not is_users("one.inner.part", written(tmp_path / "one" / "inner" / "part.py"))
    assert not is_users("two", written(tmp_path / "two.py"))
    assert is_users("mine", written(tmp_path / "mine.py"))
    assert is_users("models.net", written(tmp_path / "models" / "net.py"))
    assert is_users("models.one.net", written(tmp_path / "models" / "one" / "net.py"))


def test_what_lies_in_a_folder_of_python_is_installed() -> None:
    assert not is_users("tool", f"{sysconfig.get_path('scripts')}/tool.py")
    assert not is_users("tool", f"{sysconfig.get_path('stdlib')}/of_a_distribution/tool.py")
    assert is_users("tool", f"{sysconfig.get_path('stdlib')}-copy/tool.py")
