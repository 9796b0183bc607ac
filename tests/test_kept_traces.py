"""What was traced is read again exactly where nothing that it depends on has changed."""

import jax
import jax.numpy as jnp
import pytest

from igerg_jax import kept_traces


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "traced"
    kept_traces.keep_in(folder)
    return folder


class Maker:
    """Returns something else each time that it is called."""

    calls = 0

    def __call__(self) -> bytes:
        self.calls += 1
        return f"made {self.calls}".encode()


def test_it_is_made_once_for_each_description(folder):
    make = Maker()
    assert kept_traces.kept("a", make) == kept_traces.kept("a", make) == b"made 1"
    assert kept_traces.kept("b", make) == b"made 2"
    assert kept_traces.kept("a", make) == b"made 1"


def test_it_is_made_again_where_code_or_a_setting_differs(folder, monkeypatch):
    make = Maker()
    kept_traces.kept("a", make)
    with monkeypatch.context() as patch:
        patch.setattr(kept_traces, "_code_digest", lambda: "of other code")
        assert kept_traces.kept("a", make) == b"made 2"
    before = jax.config.jax_default_matmul_precision
    try:
        jax.config.update("jax_default_matmul_precision", "highest")
        assert kept_traces.kept("a", make) == b"made 3"
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    assert kept_traces.kept("a", make) == b"made 1"


def test_a_damaged_file_is_replaced(folder):
    make = Maker()
    kept_traces.kept("a", make)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert kept_traces.kept("a", make) == b"made 2"
    assert kept_traces.kept("a", make) == b"made 2"


def test_where_nothing_can_be_kept_it_is_made_each_time(folder):
    make = Maker()
    folder.write_text("a file in the place of the folder")
    assert [kept_traces.kept("a", make) for _ in range(2)] == [b"made 1", b"made 2"]
    kept_traces.keep_in(None)
    assert kept_traces.kept("a", make) == b"made 3"


def test_the_digest_is_of_all_code(monkeypatch, tmp_path):
    (tmp_path / "part").mkdir()
    monkeypatch.setattr(kept_traces, "__file__", str(tmp_path / "kept_traces.py"))
    digest = kept_traces._code_digest.__wrapped__
    digests = [digest()]
    for text in ("x = 1", "x = 2"):
        (tmp_path / "part" / "module.py").write_text(text)
        digests.append(digest())
    assert len(set(digests)) == 3


def test_a_function_is_traced_once_for_each_description(folder):
    traces = []

    def in_another_process():  # JAX itself remembers what this one has traced
        def scaled(tree, factor):
            traces.append(factor)
            return [tree["x"] * factor]

        return scaled

    given = {"x": jnp.arange(3.0)}, jnp.float32(2)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), given)
    for description in ("a", "a", "b"):
        call = kept_traces.traced(description, in_another_process(), *shapes)
        (result,) = jax.jit(call)(*given)
        assert result.tolist() == [0, 2, 4]
    assert len(traces) == 2
