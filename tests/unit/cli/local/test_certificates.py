"""Certificates of a local server, verified as strictly as by the newest clients."""

import ssl

from vfmalign.cli.local import certificates


def _context(protocol: int, folder, identity: certificates.Identity) -> ssl.SSLContext:
    for name, content in zip(identity._fields, identity, strict=True):
        (folder / name).write_bytes(content)
    context = ssl.SSLContext(protocol)
    context.load_verify_locations(folder / "ca")
    context.load_cert_chain(folder / "certificate", folder / "key")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    return context


def test_both_sides_accept_it_strictly(tmp_path) -> None:
    identity = certificates.issue()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = _context(ssl.PROTOCOL_TLS_SERVER, tmp_path, identity).wrap_bio(to_server, to_client, server_side=True)
    client = _context(ssl.PROTOCOL_TLS_CLIENT, tmp_path, identity).wrap_bio(
        to_client, to_server, server_hostname="127.0.0.1"
    )
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == {client, server}
    assert client.getpeercert()
    assert server.getpeercert()
