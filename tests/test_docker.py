"""What can be checked of the images and the composition without an engine to run them."""

import os
import re
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
SETTING = re.compile(r"\bSALIENCE_\w+")


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def ours(compose: dict[str, Any]) -> list[dict[str, Any]]:
    return [service for service in compose["services"].values() if service["image"].startswith("salience")]


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def known_settings() -> set[str]:
    from pipeline.settings import Settings

    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {
        f"SALIENCE_{section}__{name}".upper()
        for section, model in sections.items()
        for name in getattr(model, "model_fields", ())
    }


def test_every_setting_that_is_given_exists(compose: dict[str, Any], instructions: list[tuple[str, str]]) -> None:
    in_image = {name for word, rest in instructions if word == "ENV" for name in SETTING.findall(rest)}
    given = {name for service in ours(compose) for name in service["environment"]}

    assert in_image and given
    assert {name.removesuffix("_FILE") for name in in_image | given} <= known_settings()


def test_the_composition_gives_settings_that_load(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.settings import load_settings

    secret = tmp_path / "database_url"
    secret.write_text("postgresql://salience:secret@postgres:5432/salience\n")
    monkeypatch.chdir(tmp_path)
    for name, value in compose["services"]["worker"]["environment"].items():
        monkeypatch.setenv(name, str(secret) if name.endswith("_FILE") else value)
    settings = load_settings()

    assert settings.broker.servers == "kafka:9092"
    assert settings.database.url.get_secret_value().endswith("://salience:secret@postgres:5432/salience")


def test_no_password_stands_in_the_composition(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or name.endswith("_FILE")
            assert not re.search(r"://[^/]*:[^/]*@", str(value))


def test_every_secret_and_volume_that_is_used_is_declared(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= compose["secrets"].keys()
        assert {volume.split(":")[0] for volume in service.get("volumes", ())} <= compose["volumes"].keys()


def test_the_worker_waits_for_migration_and_servers_that_have_a_health_check(compose: dict[str, Any]) -> None:
    services = compose["services"]
    waits = {name: wait["condition"] for name, wait in services["worker"]["depends_on"].items()}

    assert waits == {
        "migrate": "service_completed_successfully",
        "kafka": "service_healthy",
        "postgres": "service_healthy",
    }
    assert all("test" in services[name]["healthcheck"] for name in ("kafka", "postgres"))


def test_the_worker_is_given_longer_to_stop_than_it_takes(compose: dict[str, Any]) -> None:
    worker = compose["services"]["worker"]
    own = float(worker["environment"]["SALIENCE_WORKER__SHUTDOWN_TIMEOUT"])

    assert seconds(worker["stop_grace_period"]) > own


def test_the_worker_can_be_scaled(compose: dict[str, Any]) -> None:
    assert not {"container_name", "ports"} & compose["services"]["worker"].keys()


def test_ports_are_open_to_this_host_only(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_images_of_others_are_pinned(compose: dict[str, Any], instructions: list[tuple[str, str]]) -> None:
    images = [str(service["image"]) for service in compose["services"].values()]
    images += [rest.split()[0] for word, rest in instructions if word == "FROM" and "$" not in rest]
    for image in images:
        if not image.startswith("salience"):
            assert re.search(r":\d", image), image


def test_the_image_does_not_run_as_root(instructions: list[tuple[str, str]]) -> None:
    last_stage = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    users = [rest for word, rest in instructions[last_stage:] if word == "USER"]

    assert users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_the_health_check_asks_the_workers_page(instructions: list[tuple[str, str]]) -> None:
    from pipeline.settings import Settings

    (check,) = [rest for word, rest in instructions if word == "HEALTHCHECK"]
    assert f"http://127.0.0.1:{Settings().worker.port}/healthz" in check
    assert f"EXPOSE {Settings().worker.port}" in {f"{word} {rest}" for word, rest in instructions}


def test_what_the_health_check_runs_is_python(instructions: list[tuple[str, str]]) -> None:
    (check,) = [rest for word, rest in instructions if word == "HEALTHCHECK"]
    command = yaml.safe_load(check.partition("CMD ")[2])

    assert command[:2] == ["python", "-c"]
    compile(command[2], "HEALTHCHECK", "exec")


def test_the_image_takes_the_tested_versions(instructions: list[tuple[str, str]]) -> None:
    (install,) = [rest for word, rest in instructions if word == "RUN" and "pip install" in rest]
    assert "-c" in install.split() and "[${PROVIDER}]" in install

    pins = (ROOT / "constraints.txt").read_text()
    assert re.search(r"^onnxruntime==", pins, re.M)  # which the GPU build turns into onnxruntime-gpu


def ignored(path: str) -> bool:
    """Whether the build context leaves `path` out: the last pattern that fits it or a parent decides."""
    out = False
    for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        parts = path.split("/")
        parents = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        anywhere = pattern.removeprefix("**/")
        if any(
            fnmatch(parent.rpartition("/")[2], anywhere) if anywhere != pattern else fnmatch(parent, pattern)
            for parent in parents
        ):
            out = not keep
    return out


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        "shared/data/README.md",
        "docker/secrets/database_url",
        "tests/conftest.py",
        "salience.db",
        "models/__pycache__/network.pyc",
        "pipeline/test.db-wal",
        ".venv/bin/python",
    ],
)
def test_the_build_context_leaves_out(path: str) -> None:
    assert ignored(path)


def test_the_build_context_holds_all_that_is_copied(instructions: list[tuple[str, str]]) -> None:
    copied = [rest.split()[:-1] for word, rest in instructions if word == "COPY" and "--from" not in rest]
    sources = [source for words in copied for source in words]

    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert not ignored(source)


def test_secrets_are_made_once_and_fit_each_other(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    script = Path(shutil.copy(DOCKER / "make-secrets", tmp_path))
    subprocess.run([script], check=True, capture_output=True)
    password = (tmp_path / "secrets" / "postgres_password").read_text()
    again = subprocess.run([script], check=True, capture_output=True, text=True)

    assert re.fullmatch(r"[A-Za-z0-9]{32}", password)
    assert f"salience:{password}@postgres" in (tmp_path / "secrets" / "database_url").read_text()
    assert (tmp_path / "secrets" / "postgres_password").read_text() == password
    assert "is kept" in again.stdout
    assert os.access(DOCKER / "make-secrets", os.X_OK)


def test_secrets_are_kept_out_of_git() -> None:
    assert (DOCKER / "secrets" / ".gitignore").read_text().splitlines() == ["*", "!.gitignore"]
