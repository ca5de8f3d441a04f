"""A language model behind an OpenAI-compatible endpoint, as far as instructions need it: one prompt, one reply."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

KEY_VARIABLE = "OMNIVAST_LLM_KEY"
"""The environment variable with the endpoint's key; without it none is sent."""


class EndpointError(RuntimeError):
    """An endpoint that does not answer; the message says which and why."""


@dataclass(frozen=True)
class Endpoint:
    """``url`` is what stands before ``/chat/completions``, such as http://localhost:8000/v1. Safe to share between threads."""

    url: str
    model: str
    temperature: float = 0.7
    most_tokens: int = 800
    schema: dict[str, Any] | None = None
    """The JSON schema that replies are asked to keep to, of endpoints that can do that (vLLM, llama.cpp)."""
    seconds: float = 120.0
    tries: int = 4
    pause: float = 1.0
    """Seconds before the second try of a request; each further one waits twice as long."""

    def __call__(self, prompt: str, seed: int) -> str:
        """The reply. A server that is busy or away is tried again. Raises EndpointError."""
        body: dict[str, Any] = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "seed": seed,
                                "temperature": self.temperature, "max_tokens": self.most_tokens}
        if self.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "reply", "schema": self.schema}}
        for number in range(self.tries):
            try:
                return self._reply(json.dumps(body).encode())
            except urllib.error.HTTPError as error:
                reason, lasting = f"HTTP {error.code} {error.reason}", error.code not in (408, 409, 425, 429) and error.code < 500
            except (OSError, ValueError) as error:  # no connection, a time limit, no JSON
                reason, lasting = str(error) or type(error).__name__, False
            except (KeyError, IndexError, TypeError):
                reason, lasting = "the reply has no choices[0].message.content", False
            if lasting:
                break
            if number + 1 < self.tries:
                time.sleep(self.pause * 2**number)
        raise EndpointError(f"the model {self.model} at {self.url} does not answer: {reason}")

    def _reply(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"
        request = urllib.request.Request(self.url.rstrip("/") + "/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=self.seconds) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])
