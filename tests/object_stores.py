"""Object stores without a network: moto's S3 server on loopback."""

from contextlib import contextmanager

import pytest

SECRET = "topsecret0123456789"


@contextmanager
def s3_server(objects, bucket="clinic"):
    """Serve a bucket with objects, by name; yield the address of the server."""
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "id", "aws_secret_access_key": SECRET}
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=bucket)
    for name, content in objects.items():
        client.put_object(Bucket=bucket, Key=name, Body=content)
    yield url
    server.stop()
