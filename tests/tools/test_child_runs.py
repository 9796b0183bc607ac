from igerg_jax.tools import child_runs


def test_a_message_is_of_the_last_attempt(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: of the attempt before\n")
    begin = log.stat().st_size
    log.write_text(log.read_text() + "step 1\nkilled\n\n")
    assert child_runs.failure(1, log, begin) == "killed (exit code 1)"
    log.write_text("10%\r20%\rerror: no file 'a\u2028b'\n")
    assert child_runs.failure(2, log, 0) == "no file 'a\u2028b' (exit code 2)"
