"""The hub itself, through huggingface_hub: its token, its repository, one commit. Whatever fails is one line."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import UserError

NO_TOKEN = "no token of Hugging Face: set HF_TOKEN, or log in once with 'hf auth login'"
LONGEST = 300


def token() -> str | None:
    """huggingface_hub's own: HF_TOKEN, else that of the login; None where there is neither. Raises UserError."""
    from huggingface_hub import get_token

    with _told("the token of Hugging Face", None):
        return get_token()


def upload(repo: str, public: bool, files: Mapping[str, bytes | Path]) -> str:
    """One commit with `files`, by their names there, in a repository that is made where there is none. -> its address.

    The hub is asked about the card, README.md, before a repository is made: it alone knows all its licences.

    Raises UserError without a token, for what the hub refuses, and before anything is put into a repository that
    everybody can see while `public` is not set.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, ModelCard

    key = token()
    if key is None:
        raise UserError(NO_TOKEN)
    with _told(repo, key):
        if isinstance(card := files.get("README.md"), bytes):
            ModelCard(card.decode()).validate(repo_type="model")
        api = HfApi(token=key)
        api.create_repo(repo, private=not public, exist_ok=True)
        private = api.model_info(repo).private
        if not private and not public:
            raise UserError(
                f"{repo}: exists and everybody can see it; add --public, make it private on its page, or choose "
                "another name"
            )
        operations = [
            CommitOperationAdd(name, data if isinstance(data, bytes) else str(data))
            for name, data in files.items()
        ]
        api.create_commit(repo, operations, commit_message="Push from b4m")
        hidden = " (private)" if private else ""
        return f"{api.endpoint}/{repo}{hidden}"


@contextmanager
def _told(what: str, key: str | None) -> Iterator[None]:
    """Raise UserError for any failure, without the token in it.

    Any: errors come from whichever HTTP library this huggingface_hub stands on, and none of them is worth a traceback.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = " ".join(str(error).split()) or type(error).__name__
        for shown in (
            key,
            key and repr(key)[1:-1],
        ):  # as it is, and as an error about odd characters spells it
            told = told.replace(shown, "(token)") if shown else told
        raise UserError(f"{what}: the hub did not take it ({told[:LONGEST]})") from None
