"""`push` and `pull`: weights folders on the Hugging Face hub.

Which server that is, and who one is there, huggingface_hub knows: `hf auth login`, HF_TOKEN,
HF_ENDPOINT. A weights folder holds arrays, JSON, a tokenizer and a card: no code.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

from etils import epath

from igerg_jax import manifests
from igerg_jax.data import image_domain
from igerg_jax.errors import UserError
from igerg_jax.run import command_line, weights_folder, workdirs
from igerg_jax.tools.weights import sharing

# All that a weights folder may hold.
FILES = (
    weights_folder.ARRAYS_FILE,
    weights_folder.RUN_FILE,
    weights_folder.CARD_FILE,
    workdirs.TOKENIZER_FILE,
    image_domain.FILE,
    manifests.FILE,
)
REPO = re.compile(r"[\w.-]+/[\w.-]+")


def push(checkpoint: str, repo: str, revision: str, private: bool, upload: bool) -> str:
    """Uploads a checkpoint, as a weights folder, in one commit; returns what was done.

    Args:
      checkpoint: a workdir, one of its checkpoints, or a weights folder.
      repo: "USER/NAME"; made if it does not exist.
      revision: the branch to commit to, which exists; "" = main.
      private: whether a repository that is made is private.
      upload: False = only say what would be uploaded.

    Raises:
      UserError: no checkpoint there, or the hub refuses.
    """
    hub = _library()
    _check_name(repo)
    with tempfile.TemporaryDirectory() as temporary:
        made = sharing.export(checkpoint, os.path.join(temporary, "weights"))
        folder = epath.Path(temporary) / "weights"
        files = sorted(path.name for path in folder.iterdir())
        sizes = [f"{name} ({_kilobytes((folder / name).stat().length)})" for name in files]
        if not upload:
            return (
                f"would upload to {_endpoint(hub)}/{repo}: {', '.join(sizes)}. Nothing was "
                "uploaded: --upload does it. To read the card before: igerg weights export "
                f"--format=safetensors --checkpoint={checkpoint} --out=DIR"
            )
        api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="igerg_jax")
        with _in_prose(hub, repo):
            api.create_repo(repo, private=private, exist_ok=True)
            found = api.create_commit(
                repo,
                [hub.CommitOperationAdd(name, os.fspath(folder / name)) for name in files],
                commit_message=made.partition(": ")[2],
                revision=revision or None,
            )
    return f"uploaded {', '.join(sizes)}: {found.commit_url}"


def pull(repo: str, revision: str, out: str) -> str:
    """Downloads a weights folder to `out`; returns what it is.

    Raises:
      UserError: no weights folder there, it is damaged, or `out` is not empty.
    """
    hub = _library()
    _check_name(repo)
    folder = epath.Path(command_line.new_folder(out))
    with tempfile.TemporaryDirectory() as temporary, _in_prose(hub, repo):
        got = hub.snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=list(FILES),
            endpoint=os.environ.get("HF_ENDPOINT"),
            library_name="igerg_jax",
            local_dir=temporary,
        )
        source = epath.Path(got)
        if not weights_folder.is_weights_folder(source):
            raise UserError(
                f"'{repo}' has no weights folder of igerg_jax ({weights_folder.ARRAYS_FILE} and "
                f"{weights_folder.RUN_FILE}). Download the weights of BART, ViT, SigLIP or "
                "ResNet-50 to a folder and give that to igerg weights import"
            )
        weights_folder.check(source)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if (source / name).exists():
                (source / name).copy(folder / name)
    run = weights_folder.read_run(folder)
    config = run.get("config") or {}
    name = ":".join(filter(None, [config.get("name"), config.get("preset")]))
    return f"wrote '{out}' from {repo}: {name}, step {run.get('step')}"


def _library():
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise UserError("the hub needs the package huggingface_hub: pip install it") from error
    return huggingface_hub


def _endpoint(hub) -> str:
    return os.environ.get("HF_ENDPOINT") or hub.constants.ENDPOINT


def _check_name(repo: str) -> None:
    if not REPO.fullmatch(repo):
        raise UserError(f"--repo={repo} is not USER/NAME, of letters, digits, '.', '-' and '_'")


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:,.0f} kB"


@contextlib.contextmanager
def _in_prose(hub, repo: str) -> Iterator[None]:
    """Errors of the hub as a UserError of one line."""
    errors, where = hub.errors, _endpoint(hub)
    try:
        yield
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise UserError(
            f"{where} shows no repository '{repo}': it is not there, or private. Check the name, "
            "or log in: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"'{repo}' has no such revision at {where}") from error
    except errors.HfHubHTTPError as error:
        code = getattr(error.response, "status_code", None)
        hint = "; log in: hf auth login, or set HF_TOKEN" if code in (401, 403) else ""
        said = str(getattr(error, "server_message", "") or error).split("\n")[0]
        raise UserError(f"{where} refuses ({code}): {said}{hint}") from error
    except Exception as error:
        of_network = type(error).__module__.startswith("http")  # of the library that the hub uses
        known = errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled
        if not of_network and not isinstance(error, known):
            raise
        raise UserError(f"cannot reach {where}: check the network, and HF_ENDPOINT") from error
