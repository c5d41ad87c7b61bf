"""Arrays that are too large for a message: uploaded by clients without keys, bounded, renewed and deleted."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import pytest
from safetensors.numpy import save

from vfmalign.client import AsyncClient
from vfmalign.client.messages.common import FileContent
from vfmalign.client.messages.mmd import ComputeOptions, Kernel
from vfmalign.client.samples import LabelledFeatures
from vfmalign.core.domain.errors import TooLarge
from vfmalign.core.storage.keys import upload_key
from vfmalign.core.storage.store.presigning import Presigner
from vfmalign.mmd.service.uploads import Uploads
from vfmalign.mmd.settings import MmdOptions
from vfmalign.v1 import common_pb2, mmd_pb2

LAYER = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
GROUPS = [f"patient-{row // 2}" for row in range(12)]


@pytest.fixture
def tenant(store):
    """Objects of a tenant without any."""
    own = store.of_tenant("uploading")
    yield own
    for key in own.list(""):
        own.delete(key)


@pytest.fixture
def get_uploads(tenant, store_settings):
    """Uploads of the tenant with some settings."""
    return lambda **changes: Uploads(tenant, Presigner(store_settings), MmdOptions().model_copy(update=changes))


def describe(data):
    return FileContent(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


async def test_uploaded_arrays_give_what_the_same_arrays_inline_give(address, store):
    samples = {"x": LabelledFeatures({"a": LAYER, "b": LAYER[:, :2]}, GROUPS), "y": LabelledFeatures(
        {"a": LAYER + 1, "b": LAYER[:, :2] - 1}, GROUPS)}  # fmt: skip
    options = ComputeOptions(pairing="paired", kernel=Kernel(fixed_sigma=2.0))
    async with AsyncClient(mmd_address=address) as client:
        inline = await client.mmd.compute(**samples, options=options)
        uploaded = {name: await client.mmd.upload(sample) for name, sample in samples.items()}
        response = await client.mmd.compute(**uploaded, options=options)
        again = await client.mmd.upload(samples["x"])
        plain = await client.mmd.upload(LAYER)
        named = await client.mmd.compute(plain, plain, options)
    assert again == uploaded["x"]
    assert response.layers == inline.layers
    assert [layer.layer for layer in named.layers] == ["features"]
    key = store.key(uploaded["x"].object.uri)
    assert key == upload_key(uploaded["x"].object.sha256)
    assert store.size_bytes(key) == uploaded["x"].object.size_bytes


async def test_a_file_that_is_there_is_complete(service, store):
    data = save({"features": LAYER + 7})
    content = describe(data)
    request = mmd_pb2.CreateUploadRequest(
        file=common_pb2.FileContent(sha256=content.sha256, size_bytes=content.size_bytes)
    )
    first = await service.CreateUpload(request)
    assert not first.upload.complete
    assert "X-Amz-Signature=" in first.upload.url
    store.put(store.key(first.object.uri), data)
    second = await service.CreateUpload(request)
    assert (second.upload.complete, second.upload.url) == (True, "")
    assert second.object == first.object


async def test_what_no_comparison_may_use_is_refused_before_it_is_sent(address):
    async with AsyncClient(mmd_address=address) as client:
        with pytest.raises(TooLarge, match="VFMALIGN_MMD__MEMORY_MIB") as caught:
            await client.mmd.upload(np.zeros((2**20, 33), np.float32))  # 132 MiB of 128
    assert caught.value.reason == "UPLOAD_TOO_LARGE"


def test_the_quota_counts_uploads_alone(tenant, get_uploads):
    tenant.put("features/f/part", bytes(500))
    tenant.put("uploads/features/old", bytes(60))
    tenant.put("uploads/by-hand", bytes(500))
    uploads = get_uploads(max_uploaded_bytes=100)
    uploads.create(describe(bytes(40)))
    with pytest.raises(TooLarge, match="VFMALIGN_MMD__MAX_UPLOADED_BYTES"):
        uploads.create(describe(b"1"))


def test_another_size_of_a_file_gives_no_room_back(get_uploads):
    uploads, content = get_uploads(max_uploaded_bytes=100), describe(bytes(60))
    url = uploads.create(content).upload.url
    uploads.create(content.model_copy(update={"size_bytes": 1}))
    with pytest.raises(TooLarge, match="VFMALIGN_MMD__MAX_UPLOADED_BYTES"):
        uploads.create(describe(bytes(41)))
    assert url, "it stores 60 bytes until it expires"


async def test_a_file_near_its_end_is_uploaded_again_and_an_old_one_is_deleted(tenant, get_uploads):
    content = describe(bytes(10))
    key = upload_key(content.sha256)
    tenant.put(key, bytes(10))
    tenant.put("uploads/by-hand", bytes(10))
    assert get_uploads().create(content).upload.complete
    # A negative age is that of a file from the future: what was written now is old.
    expired = get_uploads(upload_age_s=-10)
    assert not expired.create(content).upload.complete
    expired.start()
    for _ in range(200):
        if not tenant.exists(key):
            break
        await asyncio.sleep(0.02)
    expired.close()
    assert not tenant.exists(key)
    assert tenant.exists("uploads/by-hand")
