"""A proxy that speaks TLS for a server that does not, with a certificate that it has signed itself."""

import asyncio
import contextlib
import ssl
import subprocess
import threading
from pathlib import Path


def signed_by_itself(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1, which no authority has signed."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", "/CN=study", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*words, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@contextlib.contextmanager
def tls_proxy(server: tuple[str, int], folder: Path):
    """The address of a proxy before a server, https, and the file with its certificate."""
    certificate, key = signed_by_itself(folder)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader, writer):
        """One connection."""
        inner_reader, inner_writer = await asyncio.open_connection(*server)
        await asyncio.gather(_hand_on(reader, inner_writer), _hand_on(inner_reader, writer))

    listening = asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(certificate, key))
    listener = asyncio.run_coroutine_threadsafe(listening, loop).result(10)
    try:
        yield f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}", certificate
    finally:
        loop.call_soon_threadsafe(listener.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


async def _hand_on(reader, writer):
    with contextlib.suppress(OSError):
        while content := await reader.read(1 << 16):
            writer.write(content)
            await writer.drain()
    writer.close()
