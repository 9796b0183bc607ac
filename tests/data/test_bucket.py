"""Runs whose files are in a bucket: Orbax, TensorStore and epath against a server of our own."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from igerg_jax.errors import UserError

if importlib.util.find_spec("gcsfs") is None:  # the processes that are started import it
    pytest.skip("gs:// needs pip install -r requirements-gcs.txt", allow_module_level=True)

import fake_gcs
import small

ROOT = pathlib.Path(__file__).parents[2]


def run(code: str, environment: dict[str, str], *arguments: str) -> str:
    """What a Python process prints, gs:// being our server."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environment | {"PYTHONPATH": f"{ROOT}:{ROOT}/tests"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


TRAIN = """
import sys
sys.modules["tensorflow"] = None  # its writer of events has a client of its own
from igerg_jax.cli import main
command = ["main.py", f"--config={sys.argv[1]}", "--workdir=gs://bucket/runs/one"]
first, *others = sys.argv[2:]
assert main.main([*command, f"--config.train.steps={first}", "--config.profile.after_steps=1",
                  "--config.profile.steps=1"]) == 0
for steps in others:
    assert main.main([*command, f"--config.train.steps={steps}"]) == 0
"""


def config_file(config: ConfigDict, folder: pathlib.Path) -> str:
    source = f"from ml_collections import ConfigDict\nCONFIG = {config.to_dict()!r}\n\n\n"
    source += 'def get_config(preset=""):\n    return ConfigDict(CONFIG)\n'
    (folder / "config.py").write_text(source)
    return f"{folder}/config.py"


@pytest.mark.slow
def test_a_run_in_a_bucket(tmp_path):
    """Trains, saves, ends; goes on from there; leaves every file that a local run leaves."""
    config = small.only(small.make_config(), "image_emotion", "text_emotion")
    config.data.dataset, config.generate.max_tokens = "synthetic", 8
    config.optim.warmup_steps = 1
    config.train.update(steps=3, log_every_steps=1, checkpoint_every_steps=2)
    with fake_gcs.serve() as (store, environment):
        file = config_file(config, tmp_path)
        run(TRAIN, environment, file, "3", "5")
        files = objects(store)
    lines = [json.loads(line) for line in files["metrics.jsonl"].splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    summary = json.loads(files["summary.json"])
    assert (summary["resumed_from"], summary["final_step"]) == (3, 5)
    tops = {name.split("/")[0] for name in files}
    wanted = {"checkpoints", "config.json", "metrics.jsonl", "profile"}
    assert tops - {""} == wanted | {"history.json", "report.html", "summary.json"}
    assert any(name.endswith(".xplane.pb") for name in files)
    steps = {name.split("/")[1] for name in files if name.startswith("checkpoints/")}
    assert {"4", "5"} <= steps and "2" not in steps  # the last two are kept
    assert not list(ROOT.glob("gs:*"))


def objects(store: fake_gcs.Bucket) -> dict[str, bytes]:
    prefix = "bucket/runs/one/"
    return {name.removeprefix(prefix): data for name, (_, data) in store.objects.items()}


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_found_without_reading_it(tmp_path):
    """The listing has the checksums: one byte of the newest checkpoint has changed."""
    config = small.only(small.make_config(), "image_emotion", "text_emotion")
    config.data.dataset, config.generate.max_tokens = "synthetic", 8
    config.optim.warmup_steps = 1
    config.train.update(steps=4, log_every_steps=1, checkpoint_every_steps=2)
    with fake_gcs.serve() as (store, environment):
        file = config_file(config, tmp_path)
        run(TRAIN, environment, file, "4")
        files = objects(store)
        listed = json.loads(files["checkpoints/4/files.json"])
        assert all("crc32c" in facts for facts in listed.values())
        assert any(name.startswith("state/d/") for name in listed)
        name = max((name for name in listed if "/d/" in name), key=lambda n: listed[n]["bytes"])
        data = bytearray(files[f"checkpoints/4/{name}"])
        data[len(data) // 2] ^= 1
        store.put(f"bucket/runs/one/checkpoints/4/{name}", data, None)
        run(TRAIN, environment, file, "6")
        files = objects(store)
    assert json.loads(files["summary.json"])["resumed_from"] == 2
    assert files[f"damaged_checkpoints/4/{name}"] == bytes(data)
    assert "checkpoints/6/files.json" in files


LOCK = """
import json, os, sys, time
os.environ["EPATH_USE_TF"] = "false"
from etils import epath
from igerg_jax.errors import UserError
from igerg_jax.run import bucket_lock, workdirs
bucket_lock.BEAT_SECONDS, bucket_lock._SETTLE_SECONDS = 0.2, 0.1
workdir, mode = epath.Path("gs://bucket/runs/one"), sys.argv[1]
lock = workdir / "lock"
with workdirs.locked(workdir):
    holder = json.loads(lock.read_text())["owner"]
    if mode == "killed":
        os._exit(0)
    time.sleep(0.7)  # some beats
    if mode == "overtaken":
        for _ in range(100):  # a beat may fall between its own check and this write
            lock.write_text(json.dumps({"owner": "process 7 on elsewhere", "id": "x"}))
            time.sleep(0.2)
    try:
        with workdirs.locked(workdir):
            raise AssertionError("two have it")
    except UserError as error:
        print(error)
        assert f"'gs://bucket/runs/one' is in use by {holder};" in str(error)
assert not lock.exists()
"""


def test_a_bucket_has_one_run_at_a_time():
    """Who was killed does not keep it; who was taken for dead ends."""
    with fake_gcs.serve() as (store, environment):
        run(LOCK, environment, "killed")
        assert "bucket/runs/one/lock" in store.objects
        said = run(LOCK, environment, "ends")
        assert "in use by process" in said and "bucket/runs/one/lock" not in store.objects
        with pytest.raises(AssertionError, match=r"error: .* in use by process 7 on elsewhere"):
            run(LOCK, environment, "overtaken")


READ = """
import json, sys
import numpy as np
from igerg_jax.run import command_line
command_line.quieten()
from ml_collections import ConfigDict
from igerg_jax.data import datasets
config = ConfigDict(json.load(open(sys.argv[1])))
prepared = datasets.open_dataset(config)
texts = [prepared.split("train").window(i).response_text for i in range(5)]
image = prepared.split("train").window(0).response_image
print(json.dumps([prepared.dataset, str(prepared.folder), texts, image.hex()]))
"""


def test_data_in_a_bucket_are_copied_once(tiny_config, data_dir, tmp_path):
    from igerg_jax.data import prepare

    config = tiny_config
    there = prepare.prepare(config)
    config.data.update(data_dir="gs://bucket/data", bucket_copies_dir=str(tmp_path / "copies"))
    (tmp_path / "config.json").write_text(config.to_json())
    found = []
    with fake_gcs.serve() as (store, environment):
        for file in there.folder.parent.rglob("*"):
            if file.is_file():
                name = f"bucket/data/{file.relative_to(data_dir).as_posix()}"
                store.put(name, file.read_bytes(), None)
        for _ in range(2):
            found.append(json.loads(run(READ, environment, str(tmp_path / "config.json"))))
            for name in [n for n in store.objects if n.endswith(".npy")]:
                store.objects.pop(name)  # what is here is not fetched again
    windows = [there.split("train").window(i) for i in range(5)]
    for dataset, folder, texts, image in found:
        assert dataset == config.data.dataset and folder.startswith(str(tmp_path / "copies"))
        assert texts == [window.response_text for window in windows]
        assert bytes.fromhex(image) == windows[0].response_image


def test_what_is_not_in_the_bucket_is_said(tiny_config, tmp_path):
    tiny_config.data.update(data_dir="gs://bucket/data", bucket_copies_dir=str(tmp_path))
    (tmp_path / "config.json").write_text(tiny_config.to_json())
    code = READ.replace("prepared = datasets.open_dataset(config)", "\n".join([
        "from igerg_jax.errors import UserError",
        "try:",
        "    datasets.open_dataset(config)",
        "except UserError as error:",
        "    print(error); raise SystemExit",
    ]))  # fmt: skip
    with fake_gcs.serve() as (_, environment):
        message = run(code, environment, str(tmp_path / "config.json"))
    assert "there is no prepared 'chitchat_peeps/tiny' in 'gs://bucket/data/prepared/" in message
    assert "gcloud storage rsync -r LOCAL/prepared gs://bucket/data/prepared" in message


def test_data_are_prepared_on_a_disk(tiny_config):
    from igerg_jax.data import prepare

    tiny_config.data.data_dir = "gs://bucket/data"
    with pytest.raises(UserError, match="prepared on a local disk"):
        prepare.prepare(tiny_config)
