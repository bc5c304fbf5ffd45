"""A local double of the used part of Prolific's API, as its documentation describes it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "a-token"


class Prolific:
    """Studies and submissions in memory; undocumented calls are refused."""

    def __init__(self) -> None:
        self.studies: list[dict[str, Any]] = []
        self.submissions: list[dict[str, Any]] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length) or "{}")
                token = self.headers.get("authorization")
                status, content = double.reply(self.command, self.path, body, token)
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reply(self, method: str, path: str, body: Any, token: str | None) -> tuple[int, Any]:
        if token != f"Token {TOKEN}":
            return 401, {"error": {"status": 401, "title": "Unauthorized"}}
        parts = path.partition("?")[0].strip("/").split("/")[2:]
        match method, parts:
            case "POST", ["studies"]:
                codes = [code["code"] for code in body["completion_codes"]]
                if len(codes) != len(set(codes)):
                    return 400, {"error": {"title": "completion codes must be unique"}}
                study = body | {"id": f"{len(self.studies):024x}", "status": "UNPUBLISHED"}
                self.studies.append(study)
                return 201, study
            case "GET", ["studies", study, "submissions"]:
                own = [s for s in self.submissions if s["study"] == study]
                first = int(path.partition("offset=")[2] or 0)
                more = f"{self.address}/api/v1{path.partition('?')[0][7:]}?offset={first + 2}"
                following = {"href": more if first + 2 < len(own) else None}
                return 200, {"results": own[first : first + 2], "_links": {"next": following}}
            case "POST", ["submissions", submission, "transition"]:
                (one,) = [s for s in self.submissions if s["id"] == submission]
                if one["status"] != "AWAITING REVIEW" or body != {"action": "APPROVE"}:
                    return 400, {"error": {"title": "this transition is not possible"}}
                one["status"] = "APPROVED"
                return 200, one
        return 404, {"error": {"title": "not found"}}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
