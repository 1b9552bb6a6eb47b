"""Locks that would hold on one machine alone are refused before work is shared."""

from pathlib import Path

import pytest
from conftest import refused

from b4m.core.mounts import check_locks, mount_of


@pytest.fixture
def mounts(tmp_path):
    """mounts(kind, options): a list of mounts, like Linux', with a folder of that kind at "/data/my share"."""

    def written(kind: str, options: str) -> Path:
        path = tmp_path / "mountinfo"
        path.write_text(
            "25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n"
            "26 25 0:9 / /data rw - tmpfs none rw\n"
            rf"90 26 0:52 / /data/my\040share rw,relatime shared:7 - {kind} server:/export rw,{options}"
            + "\n"
            "a line that is none\n"
        )
        return path

    return written


def test_the_nearest_mount_counts(mounts):
    path = mounts("nfs4", "vers=4.2")
    kinds = [mount_of(Path(place), path).kind for place in ("/data/my share/new/x", "/data/my", "/elsewhere")]
    assert kinds == ["nfs4", "tmpfs", "ext4"]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("nfs", "vers=3,nolock", "with nolock"),
        ("nfs4", "local_lock=all,hard", "local_lock=all"),
        ("lustre", "checksum,localflock", "-o flock"),
    ],
)
def test_locks_of_one_machine_are_refused(kind, options, words, mounts):
    refused(
        lambda: check_locks(Path("/data/my share/out"), mounts(kind, options)), "/data/my share/out", words
    )


@pytest.mark.parametrize("mount", [("nfs4", "vers=4.2,local_lock=none"), ("lustre", "flock"), ("ext4", "rw")])
def test_locks_of_all_machines_are_taken(mount, mounts):
    check_locks(Path("/data/my share/out"), mounts(*mount))


def test_where_mounts_are_not_listed_nothing_is_refused(tmp_path):
    check_locks(tmp_path, tmp_path / "none")
