"""`vfmalign login`, `logout` and `whoami`: manage the user's access token."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from vfmalign.cli.local.state_directory import DEFAULT_HOME, StateDirectory
from vfmalign.cli.login.credential import LOGIN_REMEDY, Credential, get_claim
from vfmalign.cli.login.provider import Provider, ProviderClient
from vfmalign.cli.login.stored_login import Login, LoginFile
from vfmalign.cli.options import HomeOption, JsonOption
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.cli.views.tables import new_table
from vfmalign.client.formatting import ABSENT
from vfmalign.client.settings import load_client_settings
from vfmalign.core.domain.errors import BadOption, Unauthenticated, VfmalignError

IssuerOption = Annotated[
    str, typer.Option("--issuer", metavar="URL", envvar="VFMALIGN_LOGIN__ISSUER", help="URL of the OpenID provider.")
]
ClientIdOption = Annotated[
    str,
    typer.Option(
        "--client-id",
        metavar="ID",
        envvar="VFMALIGN_LOGIN__CLIENT_ID",
        help="Client id of vfmalign at the provider (a public client).",
    ),
]
ScopeOption = Annotated[
    str,
    typer.Option(
        "--scope", metavar="SCOPES", envvar="VFMALIGN_LOGIN__SCOPE", help="Scopes to request, separated by spaces."
    ),
]
ResourceOption = Annotated[
    str,
    typer.Option(
        "--resource",
        metavar="URI",
        envvar="VFMALIGN_LOGIN__RESOURCE",
        help="Deployment that the token is for (RFC 8707), if the provider needs this.",
    ),
]
RolesClaimOption = Annotated[
    str,
    typer.Option(
        "--roles-claim",
        metavar="CLAIM",
        envvar="VFMALIGN_AUTH__ROLES_CLAIM",
        help="Claim that contains the roles. The services must use the same claim.",
    ),
]
TenantClaimOption = Annotated[
    str,
    typer.Option(
        "--tenant-claim", metavar="CLAIM", envvar="VFMALIGN_AUTH__TENANT_CLAIM", help="Claim that contains the tenant."
    ),
]


def login(
    issuer: IssuerOption = "",
    client_id: ClientIdOption = "",
    scope: ScopeOption = "openid offline_access",
    resource: ResourceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Log in to a remote deployment by confirming a code in a browser.

    The access token is kept in a file that only you can read. The token is renewed before it expires if the provider
    allows this. Commands send the token to the services that VFMALIGN_FEATURES_ADDRESS, VFMALIGN_MMD_ADDRESS,
    VFMALIGN_FINETUNING_ADDRESS and VFMALIGN_MONITORING_ADDRESS name. Without --issuer, the command uses the provider of
    your last login. A local stack needs no login.
    """
    output, file = Output.to_terminal(as_json=as_json), LoginFile()
    client = _choose_client(file, issuer, client_id, scope, resource)
    provider = Provider(client)
    authorization = provider.start_device_authorization()
    output.note(f"open {authorization.verification_uri} and enter the code {authorization.user_code}", "bold")
    if authorization.verification_uri_complete:
        output.note(f"or open {authorization.verification_uri_complete}")
    with output.err.status("waiting for the confirmation"):
        tokens = provider.wait_for_tokens(authorization)
    file.write(Login.from_tokens(client, tokens))
    output.emit(
        {"issuer": client.issuer, "file": str(file.path)}, f"logged in at {client.issuer}; see `vfmalign whoami`"
    )


def logout(as_json: JsonOption = False) -> None:
    """Delete the stored login, and revoke it at the provider if possible."""
    output, file = Output.to_terminal(as_json=as_json), LoginFile()
    stored = file.read()
    file.delete()
    revoked = False
    if stored is not None:
        try:
            revoked = Provider(stored.client).revoke(stored.refresh_token or stored.access_token)
        except VfmalignError as error:
            output.note(f"the login could not be ended at the provider: {error.message}", "yellow")
    output.emit(
        {"was_logged_in": stored is not None, "revoked": revoked},
        "logged out" if stored is not None else "there was no login",
    )


def whoami(
    home: HomeOption = DEFAULT_HOME,
    roles_claim: RolesClaimOption = "roles",
    tenant_claim: TenantClaimOption = "tenant",
    as_json: JsonOption = False,
) -> None:
    """Show the owner and the source of the token that commands send.

    The token itself is never shown. The command does not verify the token, because the services do. If there is no
    token, the exit code is 4.
    """
    output = Output.to_terminal(as_json=as_json)
    credential = _find_credential(StateDirectory(home))
    if credential is None:
        raise Unauthenticated("there is no token", remedy=LOGIN_REMEDY, reason="NO_TOKEN")
    claims = credential.read_claims()
    chosen = load_client_settings().tenant or None
    document: dict[str, object] = {"source": credential.source, "readable": claims is not None, "calls_for": chosen}
    if claims is not None:
        document |= {
            "subject": claims.get("sub"),
            "tenant": get_claim(claims, tenant_claim),
            "roles": get_claim(claims, roles_claim),
            "issuer": claims.get("iss"),
            "expires": _format_time(claims.get("exp")),
        }
    output.emit(document, _show(document))


def _choose_client(file: LoginFile, issuer: str, client_id: str, scope: str, resource: str) -> ProviderClient:
    """Returns the client that the options name; without an issuer, the client of the present login.

    Raises:
        BadOption: an option is missing.
    """
    if not issuer and (login := file.read()) is not None:
        return login.client
    for value, option in ((issuer, "--issuer"), (client_id, "--client-id")):
        if not value:
            raise BadOption(
                "required for the first login",
                field=option,
                remedy="ask the operator of the deployment for the issuer and the client id",
            )
    return ProviderClient(issuer=issuer, client_id=client_id, scope=scope, resource=resource)


def _find_credential(directory: StateDirectory) -> Credential | None:
    """Returns the token that other commands send."""
    target = Target.from_environment()
    state = directory.read()
    if target is None and state.running:
        target = Target.from_state(directory, state)
    return Credential.find(load_client_settings()) if target is None else target.credential


def _format_time(seconds: object) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _show(document: dict[str, object]) -> Table:
    table = new_table("Token", "", "value")
    for name, value in document.items():
        if name != "readable":
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            table.add_row(name, ABSENT if text in {None, ""} else str(text))
    return table
