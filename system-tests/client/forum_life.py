"""A forum's whole life, told to its three services by a client that is not written in their language.

Somebody signs up, opens a thread and posts; others page through it, edit at the same time, follow what changes while the
service of the posts is killed and restarted, search in Korean, and delete everything again. What the client knows of the
services is in their OpenAPI documents alone (described.py). It ends with 0 if everything was so, and otherwise says what was
not.

    pip install httpx jsonschema-rs
    export ENTRANCE=http://localhost:8080 USERS_TOKEN=… THREADS_TOKEN=… POSTS_TOKEN=…    # `seed token users` makes one
    python3 forum_life.py

Twice it says what has to be done to the service of the posts, and waits for Enter."""

import json
import os
import queue
import threading
import time
import uuid

import httpx

from described import AWAY, Service

# The longest wait for a change, in seconds. A service tells of a write as soon as it is durable, but may have to come back.
PATIENCE = 30


class Follower(threading.Thread):
    """Follows the changes of a service in the background, as the pages of others do while somebody writes."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service, self.events, self.told = service, queue.Queue(), []
        # Set while it may come back after its connection was lost.
        self.may_return = threading.Event()
        self.start()

    def run(self):
        try:
            for event in self.service.follow("changes", self.wait):
                self.events.put(event)
        except Exception as error:
            self.events.put(error)

    def wait(self):
        self.may_return.wait()
        time.sleep(0.5)

    def read_to(self, is_last):
        """Reads on to an event of which `is_last` is true."""
        while not self.told or not is_last(self.told[-1]):
            try:
                event = self.events.get(timeout=PATIENCE)
            except queue.Empty:
                raise SystemExit(f"no change came for {PATIENCE} s; the last was {self.told[-1:]}") from None
            if isinstance(event, Exception):
                raise event
            self.told.append(event)


def sign_up(users):
    """Creates a user. Names are unique, so a second one with the name is refused."""
    name = f"ada-{uuid.uuid4().hex[:8]}"
    user = users.call("create", body={"username": name, "name": "Ada", "bio": None})
    users.call("create", body={"username": name}, expect=409)
    found = users.call("by_by-username", {"value": name})
    equal("the user by name", found.body, user.body)
    return user.body


def open_thread(threads, user):
    thread = threads.call("create", body={"title": "서울은 지금 and elsewhere", "createdBy": user["id"]})
    # The answer has all that a new read has, and says where that is.
    read = threads.call("read", {"id": thread.body["id"]})
    equal("the new thread", read.body, thread.body)
    equal("its path", thread.header("Location"), f"/api/threads/{thread.body['id']}")
    return thread.body


def post_twice(posts, record):
    """Posts with an Idempotency-Key, and again, as if the first answer had been lost: there is one record."""
    key = str(uuid.uuid4())
    first = posts.call("create", {"Idempotency-Key": key}, record)
    again = posts.call("create", {"Idempotency-Key": key}, record)
    equal("the repeated answer", (again.status, again.headers, again.body), (first.status, first.headers, first.body))
    posts.call("create", {"Idempotency-Key": key}, record | {"text": "another text"}, expect=422)
    return first.body


def read_pages(service, operation, parameters):
    """Reads a list page by page, as its links lead."""
    records, page = [], service.call(operation, parameters)
    while page:
        ensure("a page has no more than its limit", len(page.body) <= parameters["limit"])
        records += page.body
        page = service.follow_link(page, "next")
    return records


def edit(posts, identifier, change):
    """Changes a record in a loop that loses nobody's edit: reads it, and writes if it is still what was read. `change` makes
    a patch of the record."""
    while True:
        current = posts.call("read", {"id": identifier})
        condition = {"id": identifier, "If-Match": current.header("ETag")}
        written = posts.call("patch", condition, change(current.body), expect=(200, 412))
        if written.status == 200:
            return written.body


def edit_at_once(posts, post):
    """Two people open the same post. The second to save is refused, takes the fresh record, and merges."""
    hers = posts.call("read", {"id": post["id"]})
    his = posts.call("read", {"id": post["id"]})
    first = posts.call("patch", {"id": post["id"], "If-Match": hers.header("ETag")}, {"text": post["text"] + " (edited)"})
    ensure("another state has another tag", first.header("ETag") != hers.header("ETag"))

    stale = {"id": post["id"], "If-Match": his.header("ETag")}
    refused = posts.call("patch", stale, {"text": "his alone"}, expect=412)
    equal("the problem's status", refused.body["status"], 412)
    merged = edit(posts, post["id"], lambda fresh: {"text": fresh["text"] + " and his", "mood": "calm"})
    equal("the merged post", merged, first.body | {"text": post["text"] + " (edited) and his", "mood": "calm"})
    return [first.body, merged]


def spare_reads(posts, post):
    """Reads again only what is new: a record and a list."""
    for operation, parameters in [("read", {"id": post["id"]}), ("by_in-thread", {"value": post["thread"]})]:
        tag = posts.call(operation, parameters).header("ETag")
        posts.call(operation, parameters | {"If-None-Match": tag}, expect=304)


def read_at_once(posts, identifiers):
    """Reads some records, and some fields of them, in one request. One that nobody wrote is left out."""
    parts = posts.call("list", {"ids": [*identifiers, 9_000_000_000_000_000_000], "fields": ["id", "text"]}).body
    equal("the order of ?ids=", [part["id"] for part in parts], identifiers)
    ensure("the parts have these fields alone", all(list(part) == ["id", "text"] for part in parts))
    whole = posts.call("list", {"ids": identifiers}).body
    equal("the parts", parts, [{"id": record["id"], "text": record["text"]} for record in whole])
    return whole


def post_lines(posts, records):
    """Posts many at once: all of them or none. The line that is wrong is named."""
    media = "application/x-ndjson"
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    wrong = json.dumps({**records[0], "text": 1})
    refused = posts.call("create", body="\n".join([*lines, wrong]), media=media, expect=422)
    equal("the line that is refused", refused.body["errors"][0]["pointer"], f"/{len(lines)}/text")
    created = posts.call("create", body="\n".join(lines), media=media).lines()
    equal("lines", len(created), len(lines))
    for line in created:
        equal("a line's path", line["location"], f"/api/posts/{line['id']}")
    return [line["id"] for line in created]


def post_through_a_crash(posts, record):
    """Posts while the service is killed, again and again with one key: the post is there once."""
    key = {"Idempotency-Key": str(uuid.uuid4())}
    ask("kill the service of the posts with SIGKILL")
    posts.call("create", key, record, expect=AWAY)
    ask("restart it at the same address")
    while True:
        answer = posts.call("create", key, record, expect=(201, *AWAY))
        if answer.status == 201:
            return answer.body
        time.sleep(answer.headers.get("Retry-After", 1))


def search(posts, thread, word, expected):
    found = posts.call("by_in-thread", {"value": thread["id"], "q": word, "sort": "id"})
    equal(f"what {word} finds", [post["text"] for post in found.body], expected)


def is_deletion(event, record):
    return event["event"] == "delete" and json.loads(event["data"])["id"] == record["id"]


def live(users, threads, posts):
    user = sign_up(users)
    say(f"{user['username']} signs up")
    thread = open_thread(threads, user)
    say(f"opens a thread, {thread['title']}")

    # The first event names the place where this begins, so that nothing that comes after it is missed.
    follower = Follower(posts)
    follower.read_to(lambda event: event["event"] == "place")
    # All that has to come, in this order: a record, or an id of one that is deleted.
    expected = []

    def write(text):
        return {"thread": thread["id"], "text": text, "user": user["id"]}

    texts = ["서울은 밤이다", "부산은 멀다", "남서울 kettle", "A kettle, again"]
    written = [post_twice(posts, write(text)) for text in texts]
    expected += written
    say(f"posts {len(written)} times, each sent twice")

    edits = edit_at_once(posts, written[1])
    expected += edits
    written[1] = edits[-1]
    say("edits with a current and a stale ETag, and merges")

    written.append(post_through_a_crash(posts, write("after the crash, 서울에서")))
    expected.append(written[-1])
    # There is something now that the follower missed.
    follower.may_return.set()
    say("posts through a crash of the service")

    identifiers = post_lines(posts, [write(f"line {number}") for number in range(3)])
    lines = read_at_once(posts, identifiers)
    expected += lines
    written += lines
    say("posts lines, and reads them by their ids")

    for limit in (1, 3, 100):
        equal(f"pages of {limit}", read_pages(posts, "by_in-thread", {"value": thread["id"], "limit": limit}), written)
    newest = read_pages(posts, "by_in-thread", {"value": thread["id"], "limit": 3, "sort": "-id"})
    equal("pages from the newest", newest, written[::-1])
    total = posts.call("by_in-thread", {"value": thread["id"], "limit": 1, "count": True}).header("X-Total-Count")
    equal("the count", total, len(written))
    say("pages through the thread")

    search(posts, thread, "서울", ["서울은 밤이다", "남서울 kettle", "after the crash, 서울에서"])
    search(posts, thread, "kettle 서울", ["남서울 kettle"])
    search(posts, thread, "대전", [])
    ensure("the thread is found by its title", thread in threads.call("list", {"q": "서울", "sort": "-id"}).body)
    say("searches in Korean")

    spare_reads(posts, written[0])
    say("reads nothing twice")

    for service, record in [*((posts, post) for post in written), (threads, thread), (users, user)]:
        tag = service.call("read", {"id": record["id"]}).header("ETag")
        service.call("delete", {"id": record["id"], "If-Match": tag})
        service.call("read", {"id": record["id"]}, expect=404)
        service.call("delete", {"id": record["id"]}, expect=404)
    expected += [post["id"] for post in written]
    equal("the empty thread", posts.call("by_in-thread", {"value": thread["id"]}).body, [])
    say("deletes everything")

    follower.read_to(lambda event: is_deletion(event, written[-1]))
    connections = sum(event["event"] == "place" for event in follower.told)
    ensure("the connection was lost and made again", connections > 1)
    changes = [json.loads(event["data"]) for event in follower.told if event["event"] != "place"]
    revisions = [change["revision"] for change in changes]
    equal("the order of the changes", revisions, sorted(set(revisions)))
    # Others may write meanwhile, but not these records.
    ours = [change for change in changes if change["id"] in {post["id"] for post in written}]
    equal("the changes", [change.get("record", change["id"]) for change in ours], expected)
    say(f"was told of {len(ours)} changes over {connections} connections, of each once")


def equal(what, got, expected):
    if got != expected:
        raise SystemExit(f"{what}: got {got!r}, not {expected!r}")


def ensure(what, condition):
    equal(what, condition, True)


def say(what):
    print(f"- {what}", flush=True)


def ask(what):
    print(f"? {what}", flush=True)
    input()


if __name__ == "__main__":
    # Longer than the 15 seconds after which a service that has no changes shows that it is alive.
    with httpx.Client(base_url=os.environ.get("ENTRANCE", "http://localhost:8080"), timeout=30) as http:
        live(*(Service(http, name, os.environ[f"{name.upper()}_TOKEN"]) for name in ("users", "threads", "posts")))
