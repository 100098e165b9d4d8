"""The verb `keygen`: a private key, and the request for a certificate that goes to the authority."""

from pathlib import Path
from typing import Annotated

import typer

from dropsign.cli import console


def keygen(
    subject: Annotated[
        str, typer.Option(metavar="CN", help="Common name of the certificate: some-name, or /CN=some-name.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write; made if it is not there.")],
) -> None:
    """Make a private key and a certificate signing request."""
    from dropsign import keys

    name = keys.common_name(subject)
    private_key, request = keys.write_pair(out, name)
    console.out.print(f"private key   {console.name(private_key)}  (P-256, PKCS#8; keep it to yourself)", markup=False)
    console.out.print(f"request       {console.name(request)}  (CN={name})", markup=False)
    console.out.print(
        "\nNext: send the request to the authority. It answers with the client certificate and its own chain;\n"
        "name the three files in config.toml as tls.certificate, tls.private_key and tls.authority, then run\n"
        "dropsign check.",
        markup=False,
    )
