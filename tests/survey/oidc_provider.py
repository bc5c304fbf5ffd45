"""A small OpenID provider for tests: one client; anyone signs in by a click on a name."""

import secrets
import socket
import threading
import time
from urllib.parse import urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.routing import Route

#: Name on the page -> claims.
PEOPLE = {
    "alice": {"sub": "1", "email": "alice@example.org", "email_verified": True},
    "mallory": {"sub": "2", "email": "mallory@example.org", "email_verified": True},
    "typed": {"sub": "3", "email": "alice@example.org", "email_verified": False},
}


class Provider:
    """A server on a free port of this machine until it is closed."""

    def __init__(self) -> None:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.key = RSAKey.generate_key(2048, {"kid": "test", "use": "sig", "alg": "RS256"})
        self.codes: dict[str, dict] = {}
        routes = [
            Route("/.well-known/openid-configuration", self.discovery),
            Route("/authorize", self.authorize),
            Route("/token", self.token, methods=["POST"]),
            Route("/jwks", self.jwks),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_level="warning")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listening],), daemon=True)
        self.thread.start()

    async def discovery(self, request: Request) -> JSONResponse:
        return JSONResponse(
            {
                "issuer": self.address,
                "authorization_endpoint": f"{self.address}/authorize",
                "token_endpoint": f"{self.address}/token",
                "jwks_uri": f"{self.address}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def authorize(self, request: Request) -> HTMLResponse | RedirectResponse:
        asked = dict(request.query_params)
        if "as" not in asked:
            links = "".join(
                f'<a href="?{urlencode(asked | {"as": name})}">{name}</a> ' for name in PEOPLE
            )
            return HTMLResponse(f"<h1>Who are you?</h1>{links}")
        code = secrets.token_urlsafe(16)
        self.codes[code] = {**PEOPLE[asked["as"]], "nonce": asked.get("nonce", "")}
        back = urlencode({"code": code, "state": asked["state"]})
        return RedirectResponse(f"{asked['redirect_uri']}?{back}")

    async def token(self, request: Request) -> JSONResponse:
        form = await request.form()
        now = int(time.time())
        claims = {
            **self.codes.pop(str(form["code"])),  # a code is good for once
            "iss": self.address,
            "aud": "client",
            "iat": now,
            "exp": now + 300,
        }
        signed = jwt.encode({"alg": "RS256", "kid": "test"}, claims, self.key)
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": signed})

    async def jwks(self, request: Request) -> JSONResponse:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
