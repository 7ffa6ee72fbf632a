import pytest

from ckptlab.store.backends.credentials import store_options


@pytest.mark.parametrize(
    ("url", "environment", "signs"),
    [
        ("s3://bucket/run.zarr", {}, False),
        ("s3://bucket/run.zarr", {"AWS_ACCESS_KEY_ID": "key"}, True),
        ("s3://bucket/run.zarr", {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token"}, True),
        ("s3://bucket/run.zarr", {"AWS_SKIP_SIGNATURE": "false"}, True),
        ("s3://bucket/run.zarr", {"GOOGLE_SERVICE_ACCOUNT": "account"}, False),
        ("az://container/run.zarr", {}, False),
        ("az://container/run.zarr", {"AZURE_STORAGE_ACCOUNT_KEY": "key"}, True),
        ("gs://bucket/run.zarr", {"GOOGLE_APPLICATION_CREDENTIALS": "/key"}, True),
    ],
)
def test_without_credentials_requests_are_anonymous(url, environment, signs):
    """Signed ones without credentials would ask the cloud's metadata address for some."""
    assert store_options(url, environment).get("skip_signature", False) is not signs


def test_no_metadata_address_is_asked(monkeypatch, tmp_path):
    """The metadata address is one that this test serves, and nobody calls it."""
    import socket

    from ckptlab.errors import CkptlabError
    from ckptlab.store.read.reader import open_store

    with socket.create_server(("127.0.0.1", 0)) as metadata, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{metadata.getsockname()[1]}")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(CkptlabError) as caught:
            open_store("s3://bucket/run.zarr")
        metadata.settimeout(0.1)
        with pytest.raises(TimeoutError):
            metadata.accept()
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
