"""Choose how to open an object store: with the environment's credentials, or anonymously.

Without credentials obstore asks the metadata address of the cloud's own machines, which anywhere
else takes long and fails. So that is only done where the user asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Cloud:
    """One provider: the variables that hold credentials, and the one to use the machine's own."""

    credentials: tuple[str, ...]
    own: str
    set: str


_AWS = Cloud(
    (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "AWS_SKIP_SIGNATURE",
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
)
_GOOGLE = Cloud(
    (
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ),
    "GOOGLE_SKIP_SIGNATURE",
    "GOOGLE_APPLICATION_CREDENTIALS",
)
_AZURE = Cloud(
    (
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_TOKEN",
        "AZURE_STORAGE_CLIENT_ID",
        "AZURE_CLIENT_ID",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_USE_AZURE_CLI",
    ),
    "AZURE_SKIP_SIGNATURE",
    "AZURE_STORAGE_ACCOUNT_KEY",
)
_CLOUDS = {"s3": _AWS, "s3a": _AWS, "gs": _GOOGLE, "az": _AZURE, "abfs": _AZURE, "azure": _AZURE}


def find_cloud(url: str) -> Cloud | None:
    """Return the provider that a URL names; None for others."""
    return _CLOUDS.get(url.partition("://")[0])


def store_options(url: str, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the options to open a store with, beside those that obstore reads itself."""
    options: dict[str, Any] = {}
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if any(environment.get(name, "").startswith("http://") for name in endpoints):
        options["client_options"] = {"allow_http": True}
    cloud = find_cloud(url)
    if cloud is not None and not _has_credentials(cloud, environment):
        options["skip_signature"] = True
    return options


def access_hint(url: str, error: BaseException) -> str:
    """Say what to set where a store refuses access; nothing for other errors."""
    cloud = find_cloud(url)
    refused = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
    if cloud is None or not (refused or isinstance(error, PermissionError)):
        return ""
    return f"; set {cloud.set}, or {cloud.own}=false to use this machine's own role"


def _has_credentials(cloud: Cloud, environment: Mapping[str, str]) -> bool:
    if any(environment.get(name) for name in (*cloud.credentials, cloud.own)):
        return True
    login = Path(".config/gcloud/application_default_credentials.json")
    return cloud is _GOOGLE and (Path.home() / login).exists()
