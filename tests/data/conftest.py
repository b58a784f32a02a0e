import pytest


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"the cat number {number} sat on the mat {number * number}\n" * 20)
    return folder


@pytest.fixture
def stories():
    """Documents, none of them like another."""
    return [f"story {n}: the cat sat on mat {n * n}, then on {n * n * n % 977}\n" * (1 + n % 5) for n in range(200)]
