"""The dashboard's sessions: a signed cookie that names a key, and the token that guards its forms.

The cookie holds no secret of the key: it names the key's id, which the page verifies again on each request
(`KeyVerifier.verify_key_id`), so that revoking the key ends its sessions. The signing secret lies in the data
folder's file ``session-secret`` (mode 600); deleting it ends all sessions.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from itsdangerous import BadSignature, URLSafeTimedSerializer

from anomalyze.access.admin import load_secret, store_secret

__all__ = ["SESSION_AGE_MAX_S", "SESSION_SECRET_FILE", "Session", "SessionSigner"]

SESSION_SECRET_FILE = "session-secret"  # noqa: S105 - a file's name
# An analyst's day; then the key is asked for again.
SESSION_AGE_MAX_S = 12 * 3600
TOKEN_LENGTH_MAX = 1024


@dataclass(frozen=True, slots=True)
class Session:
    """One signed-in browser: a random id and the key it signed in with."""

    session_id: str
    key_id: str


class SessionSigner:
    """Makes and reads session cookies and CSRF tokens.

    Parameters
    ----------
    secret
        What signs; the same for all processes of the dashboard.
    """

    def __init__(self, secret: str) -> None:
        self._serializer = URLSafeTimedSerializer(
            secret, salt="anomalyze.session", signer_kwargs={"digest_method": sha256}
        )
        self._csrf_key = hmac.digest(secret.encode(), b"anomalyze.csrf", "sha256")

    @classmethod
    def from_data_dir(cls, data_dir: Path) -> SessionSigner:
        """With the secret of a data folder, made when missing."""
        path = data_dir / SESSION_SECRET_FILE
        secret = load_secret(path)
        if secret is None:
            # Of two processes that start at once the first file counts for both.
            store_secret(path, secrets.token_urlsafe(32), replace=False)
            secret = load_secret(path)
            assert secret is not None
        return cls(secret)

    def sign(self, key_id: str) -> tuple[Session, str]:
        """A new session for a key just verified, and its cookie value (URL-safe text)."""
        session = Session(secrets.token_urlsafe(16), key_id)
        return session, self._serializer.dumps([session.session_id, session.key_id])

    def load(self, token: str, age_max_s: int = SESSION_AGE_MAX_S) -> Session | None:
        """The session of a cookie; None when it is forged, damaged or too old."""
        if not 0 < len(token) <= TOKEN_LENGTH_MAX:
            return None
        try:
            content = self._serializer.loads(token, max_age=age_max_s)
        except BadSignature:
            return None
        match content:
            case [str(session_id), str(key_id)]:
                return Session(session_id, key_id)
        return None

    def csrf_token(self, session: Session) -> str:
        """What each form and each htmx request of this session carries (hex, 64 characters)."""
        return hmac.digest(self._csrf_key, session.session_id.encode(), "sha256").hex()

    def check_csrf_token(self, session: Session, token: str | None) -> bool:
        """Whether a request came from one of this session's own pages; in constant time."""
        return token is not None and hmac.compare_digest(
            self.csrf_token(session).encode(), token.encode("utf-8", "surrogatepass")
        )
