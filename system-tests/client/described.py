"""A service as its OpenAPI document describes it.

Nothing about a service is written here but where its document is: paths, methods, parameters, media types, headers, statuses
and schemas are those of the document. A request that the document does not allow is not sent, and an answer that it does not
have is an error. What an operation is called by is its `operationId`."""

import json
import time
from urllib.parse import quote

import httpx
import jsonschema_rs

# What an entrance answers while a service is away, and a service that takes nothing now.
AWAY = (502, 503, 504)


class NotAsDescribed(Exception):
    """A request or an answer that differs from the service's document."""


class Answer:
    """An answer. `headers` has those that the document names, and no other; `body` is JSON, or text of any other type."""

    def __init__(self, operation, parameters, status, headers, body):
        self.operation, self.parameters, self.status = operation, parameters, status
        self.headers, self.body = headers, body

    def header(self, name):
        """Returns a header that must be there, and that the document must name."""
        if name not in self.headers:
            raise NotAsDescribed(f"{self.operation} answers {self.status} without {name}, or the document does not name it")
        return self.headers[name]

    def lines(self):
        """Reads a body of lines of JSON."""
        return [json.loads(line) for line in self.body.splitlines()]


class Service:
    def __init__(self, http, name, secret):
        self.http, self.name, self.secret = http, name, secret
        answer = http.get(f"/api/{name}/openapi.json")
        answer.raise_for_status()
        self.document = answer.json()
        self.operations = {
            operation["operationId"]: (method.upper(), path, operation)
            for path, item in self.document["paths"].items()
            for method, operation in item.items()
        }

    def call(self, operation, parameters=None, body=None, media="application/json", expect=None):
        """Calls an operation. `parameters` go where the document has them: into the path, the query or the headers.
        `expect` is a status, or several; without it the only success that the document has is expected."""
        parameters = parameters or {}
        response = self.http.send(self._request(operation, parameters, body, media))
        return self._answer(operation, parameters, response, expect)

    def follow_link(self, answer, relation):
        """Reads another page of a list; returns None if there is no link to it."""
        links = httpx.Response(200, headers={"Link": answer.headers.get("Link", "")}).links
        if relation not in links:
            return None
        url = httpx.URL(links[relation]["url"])
        declared = self._parameters(answer.operation)
        of_path = {name: value for name, value in answer.parameters.items() if declared[name]["in"] == "path"}
        path = self._request(answer.operation, of_path, None, None).url.path
        self._require(url.path == path, f"a link leads from {path} to {url.path}")
        of_query = {name: self._parse(value, declared.get(name, {})) for name, value in url.params.multi_items()}
        return self.call(answer.operation, of_path | of_query)

    def follow(self, operation, wait=lambda: time.sleep(0.5)):
        """Yields server-sent events, and does not end. If the connection breaks, or the service is away, this comes back
        with `Last-Event-ID`, as a browser's EventSource does, and goes on behind the last event that it yielded. Calls `wait`
        before it comes back."""
        place, media = None, "text/event-stream"
        while True:
            request = self._request(operation, {"Last-Event-ID": place} if place else {}, None, None)
            request.headers["Accept"] = media
            try:
                response = self.http.send(request, stream=True)
                try:
                    described = self._described(operation, response.status_code)
                    if response.status_code == self._success(operation):
                        self._require(_media(response) == media, f"events come as {_media(response)}")
                        for event in _events(response.iter_lines()):
                            self._check(event, described["content"][media]["schema"], "an event")
                            place = event["id"]
                            yield event
                    elif response.status_code not in AWAY:
                        raise NotAsDescribed(f"{self.name}: {operation} answers {response.status_code}")
                finally:
                    response.close()
            except httpx.TransportError:
                pass
            wait()

    def _request(self, operation, parameters, body, media):
        method, path, described = self._operation(operation)
        declared = self._parameters(operation)
        query, headers = [], {}
        for name, value in parameters.items():
            self._require(name in declared, f"{operation} has no parameter {name}")
            parameter = declared[name]
            self._check(value, parameter["schema"], name)
            texts = [_text(each) for each in value] if isinstance(value, list) else [_text(value)]
            if not parameter.get("explode", False):
                texts = [",".join(texts)]
            if parameter["in"] == "path":
                path = path.replace("{" + name + "}", quote(texts[0], safe=""))
            elif parameter["in"] == "query":
                query += [(name, text) for text in texts]
            else:
                headers[name] = texts[0]
        for name, parameter in declared.items():
            self._require(name in parameters or not parameter.get("required"), f"{operation} needs {name}")
        if described.get("security"):
            headers["Authorization"] = f"Bearer {self.secret}"
            schemes = self.document["components"]["securitySchemes"]
            by_bearer = any(schemes[name]["scheme"] == "bearer" for each in described["security"] for name in each)
            self._require(by_bearer, f"{operation} takes no bearer token")
        content = None
        if body is not None:
            kinds = described.get("requestBody", {}).get("content", {})
            self._require(media in kinds, f"{operation} takes no {media}")
            self._check(body, kinds[media]["schema"], f"the body of {operation}")
            content = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
            headers["Content-Type"] = media
        return self.http.build_request(method, path, params=query or None, headers=headers, content=content)

    def _answer(self, operation, parameters, response, expect):
        expected = self._success(operation) if expect is None else expect
        expected = expected if isinstance(expected, tuple) else (expected,)
        status = response.status_code
        said = f"{self.name}: {operation} answers {status} {response.text}"
        described = self._described(operation, status)
        if status not in expected:
            raise NotAsDescribed(f"{said}, not {' or '.join(map(str, expected))}")
        headers = {}
        for name, header in described.get("headers", {}).items():
            header = self._resolve(header)
            self._require(name in response.headers or not header.get("required"), f"{said} without {name}")
            if name in response.headers:
                headers[name] = self._parse(response.headers[name], header)
                self._check(headers[name], header["schema"], name)
        kinds = described.get("content")
        if not kinds:
            self._require(not response.content, f"{said}, but the document has no body")
            return Answer(operation, parameters, status, headers, None)
        media = _media(response)
        self._require(media in kinds, f"{said} as {media}, not {' or '.join(kinds)}")
        is_json = media == "application/json" or media.endswith("+json")
        body = response.json() if is_json else response.text
        self._check(body, kinds[media]["schema"], f"the answer to {operation}")
        return Answer(operation, parameters, status, headers, body)

    def _operation(self, operation):
        self._require(operation in self.operations, f"there is no operation {operation}")
        return self.operations[operation]

    def _parameters(self, operation):
        declared = self._operation(operation)[2].get("parameters", [])
        return {parameter["name"]: parameter for parameter in map(self._resolve, declared)}

    def _success(self, operation):
        successes = [int(status) for status in self._operation(operation)[2]["responses"] if status.startswith("2")]
        self._require(len(successes) == 1, f"{operation} has the successes {successes}; say which is expected")
        return successes[0]

    def _described(self, operation, status):
        responses = self._operation(operation)[2]["responses"]
        self._require(str(status) in responses, f"{operation} answers {status}, which the document does not have")
        return self._resolve(responses[str(status)])

    def _resolve(self, value):
        """Returns what a `$ref` refers to, or the value itself."""
        while "$ref" in value:
            steps = value["$ref"].removeprefix("#/").split("/")
            value = self.document
            for step in steps:
                value = value[step]
        return value

    def _parse(self, text, described):
        """Makes a value of a text from a header or a URL, of the type that the document has."""
        kind = described.get("schema", {}).get("type")
        if kind == "integer" and text.isdigit():
            return int(text)
        if kind == "boolean" and text in ("true", "false"):
            return text == "true"
        return text.split(",") if kind == "array" else text

    def _check(self, value, schema, name):
        # Schemas refer to each other by their place in the document.
        validator = jsonschema_rs.Draft202012Validator({**schema, "components": self.document["components"]})
        for error in validator.iter_errors(value):
            raise NotAsDescribed(f"{self.name}: {name} is {value!r}: {error.message}")

    def _require(self, condition, otherwise):
        if not condition:
            raise NotAsDescribed(f"{self.name}: {otherwise}")


def _media(response):
    return response.headers.get("Content-Type", "").split(";")[0]


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def _events(lines):
    """Makes events of lines (https://html.spec.whatwg.org/multipage/server-sent-events.html). A last one that has no empty
    line behind it did not come whole and is left out; comments show that the connection is alive."""
    event = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            value = value.removeprefix(" ")
            event[name] = event[name] + "\n" + value if name == "data" and name in event else value
        elif not line and event:
            yield event
            event = {}
