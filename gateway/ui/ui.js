// The forum as a page: threads, posts and users of three services, which know nothing of each other.
//
// Whatever the services send becomes text, never markup. What they can do beyond reading and writing, search and live
// changes, the page learns from the OpenAPI document.
"use strict";

const PAGE = 20;
const main = document.querySelector("main");
const person = document.querySelector("#person");
const search = document.querySelector("#search");
const live = document.querySelector("#live");

// ---- Requests.

// Returns the answer, or throws an error with what the service says.
async function ask(path, method = "GET", body = undefined, headers = {}) {
  const fields = { ...headers };
  if (method !== "GET") {
    const collection = path.split(/[/?]/)[2];
    fields.authorization = `Bearer ${sessionStorage.getItem(collection) ?? ""}`;
    fields["content-type"] = "application/json";
  }
  const answer = await fetch(path, { method, headers: fields, body: body && JSON.stringify(body) });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ detail: `The answer is ${answer.status}.` }));
  const errors = (problem.errors ?? []).map((error) => ` ${error.pointer.slice(1)} ${error.detail}.`);
  throw Object.assign(new Error(problem.detail + errors.join("")), { status: answer.status });
}

async function read(path) {
  return (await ask(path)).json();
}

// Returns a page of a list, and the path of the next one.
async function readPage(path) {
  const answer = await ask(path);
  const next = /<([^>]*)>; rel="next"/.exec(answer.headers.get("link") ?? "");
  return { records: await answer.json(), next: next?.[1] };
}

// Creates a record. A request that is repeated on the way creates no second one.
async function create(path, record) {
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16)).join("-");
  return (await ask(path, "POST", record, { "idempotency-key": key })).json();
}

// The usernames that were asked for so far, by id.
const names = new Map();

// Learns the names of many users in one request.
async function learnNames(ids) {
  const unknown = [...new Set(ids)].filter((id) => !names.has(id));
  if (unknown.length === 0) return;
  for (const user of await read(`/api/users?ids=${unknown}&fields=id,username`)) names.set(user.id, user.username);
}

// Returns the id of the person who writes.
async function readWriter() {
  const name = sessionStorage.getItem("name");
  if (!name) throw new Error("Open Write, and give your username and a token.");
  return (await read(`/api/users/by-username/${encodeURIComponent(name)}?fields=id`)).id;
}

// ---- Elements.

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function link(href, text) {
  return make("a", { href }, text);
}

function writer(id) {
  return names.has(id) ? link(`#/user/${id}`, names.get(id)) : "somebody who left";
}

// A button that says what went wrong beside it.
function button(text, act) {
  const problem = make("span", { className: "error" });
  const pressed = make("button", { type: "button" }, text);
  pressed.onclick = async () => {
    pressed.disabled = true;
    problem.textContent = "";
    await act().catch((error) => (problem.textContent = error.message));
    pressed.disabled = false;
  };
  return make("span", {}, pressed, problem);
}

// A list that grows by a page with each press.
function pages(path, show, learn) {
  const list = make("section");
  const more = make("div");
  const load = async (from) => {
    const { records, next } = await readPage(from);
    await learnNames(records.map(learn));
    list.append(...records.map(show));
    more.replaceChildren(next ? button("More", () => load(next)) : "");
  };
  return { list, whole: make("div", {}, list, more), loaded: load(path) };
}

function showThread(thread) {
  return make("article", {}, link(`#/thread/${thread.id}`, thread.title), " ",
    make("small", {}, "by ", writer(thread.createdBy)));
}

function showPost(post) {
  const text = make("p", {}, post.text);
  const foot = make("small", {}, writer(post.user), " in ", link(`#/thread/${post.thread}`, `thread ${post.thread}`), " ");
  const article = make("article", { id: `post-${post.id}` }, text, foot);
  if (sessionStorage.getItem("posts") && names.get(post.user) === sessionStorage.getItem("name")) {
    foot.append(button("Edit", () => edit(post, article)), button("Delete", async () => {
      await ask(`/api/posts/${post.id}`, "DELETE");
      article.remove();
    }));
  }
  return article;
}

// Changes a post if it is still as it was when the editing began.
async function edit(post, article) {
  const answer = await ask(`/api/posts/${post.id}`);
  const current = await answer.json();
  const state = answer.headers.get("etag");
  const text = make("textarea", { value: current.text, rows: 4 });
  const save = button("Save", async () => {
    const written = await ask(`/api/posts/${post.id}`, "PATCH", { text: text.value }, { "if-match": state }).catch((error) => {
      throw error.status === 412 ? new Error("Somebody else has changed this post meanwhile.") : error;
    });
    article.replaceWith(showPost(await written.json()));
  });
  article.replaceChildren(text, save, button("Leave", async () => article.replaceWith(showPost(await read(`/api/posts/${post.id}`)))));
}

// A form with one text, if the person has a token of the collection.
function writing(collection, kind, label, send) {
  if (!sessionStorage.getItem(collection)) return "";
  const text = make(kind, { required: true, placeholder: label, rows: 3 });
  text.setAttribute("aria-label", label);
  const form = make("form", { className: "writing" }, text, button("Send", async () => {
    await send(text.value);
    text.value = "";
  }));
  form.onsubmit = (event) => event.preventDefault();
  return form;
}

// ---- Views.

const views = {
  async ""() {
    const threads = pages(`/api/threads?sort=-id&limit=${PAGE}`, showThread, (thread) => thread.createdBy);
    const form = writing("threads", "input", "The title of a new thread", async (title) => {
      const thread = await create("/api/threads", { title, createdBy: await readWriter() });
      location.hash = `#/thread/${thread.id}`;
    });
    await threads.loaded;
    return [make("h1", {}, "Threads"), form, threads.whole];
  },

  async thread(id) {
    const posts = pages(`/api/posts/in-thread/${id}?limit=${PAGE}`, showPost, (post) => post.user);
    const [thread] = await Promise.all([read(`/api/threads/${id}`), posts.loaded]);
    await learnNames([thread.createdBy]);
    posts.list.dataset.thread = thread.id;
    const form = writing("posts", "textarea", "Your post", async (text) => {
      const post = await create("/api/posts", { thread: thread.id, text, user: await readWriter() });
      await put(post);
    });
    return [make("h1", {}, thread.title), make("small", {}, "begun by ", writer(thread.createdBy)), posts.whole, form];
  },

  async user(id) {
    const user = await read(`/api/users/${id}`);
    names.set(user.id, user.username);
    const threads = pages(`/api/threads/by-user/${id}?limit=${PAGE}`, showThread, (thread) => thread.createdBy);
    const posts = pages(`/api/posts/by-user/${id}?limit=${PAGE}`, showPost, (post) => post.user);
    await Promise.all([threads.loaded, posts.loaded]);
    return [make("h1", {}, user.name ?? user.username), make("p", {}, user.bio ?? ""), make("h2", {}, "Threads"),
      threads.whole, make("h2", {}, "Posts"), posts.whole];
  },

  async search(words) {
    const posts = pages(`/api/posts?q=${words}&limit=${PAGE}`, showPost, (post) => post.user);
    await posts.loaded;
    const found = posts.list.childElementCount > 0 ? posts.whole : "Nothing was found.";
    return [make("h1", {}, `Posts with “${decodeURIComponent(words)}”`), found];
  },
};

// The number of the view that was asked for last: an earlier one may come later.
let turn = 0;

async function show() {
  const mine = ++turn;
  const [name, value] = location.hash.slice(2).split("/");
  const view = views[name] ?? (async () => ["There is no such page."]);
  const content = await view(value).catch((error) => [make("p", { className: "error" }, error.message)]);
  if (mine === turn) main.replaceChildren(...content);
}

// ---- Live changes.

// Puts a post into the thread that is shown.
async function put(post) {
  const list = main.querySelector("[data-thread]");
  if (!list || Number(list.dataset.thread) !== post.thread) return;
  await learnNames([post.user]);
  const shown = showPost(post);
  shown.className = "new";
  const before = document.getElementById(shown.id);
  // Who edits it learns of the change from the answer.
  if (before?.querySelector("textarea")) return;
  if (before) before.replaceWith(shown);
  else list.append(shown);
}

function follow() {
  const said = live.querySelector("output");
  const changes = new EventSource("/api/posts/changes");
  changes.addEventListener("put", async (event) => {
    const { record } = JSON.parse(event.data);
    await learnNames([record.user]);
    said.replaceChildren(writer(record.user), " wrote in ", link(`#/thread/${record.thread}`, `thread ${record.thread}`));
    await put(record);
  });
  changes.addEventListener("delete", (event) => {
    const { id } = JSON.parse(event.data);
    document.getElementById(`post-${id}`)?.remove();
    said.textContent = `post ${id} was deleted`;
  });
  changes.onopen = () => (live.hidden = false);
  changes.onerror = () => (live.hidden = changes.readyState === EventSource.CLOSED);
}

// ---- The start.

person.onsubmit = async (event) => {
  event.preventDefault();
  const said = person.querySelector("output");
  const given = new FormData(person);
  for (const [name, value] of given) sessionStorage.setItem(name, value.trim());
  const name = sessionStorage.getItem("name");
  try {
    await readWriter().catch((error) => {
      if (error.status !== 404 || !sessionStorage.getItem("users")) throw error;
      return create("/api/users", { username: name });
    });
    said.textContent = `You write as ${name}.`;
    await show();
  } catch (error) {
    said.textContent = error.status === 404 ? "There is no such user; with a token of users you can sign up." : error.message;
  }
};
for (const input of person.querySelectorAll("input")) input.value = sessionStorage.getItem(input.name) ?? "";
search.onsubmit = (event) => {
  event.preventDefault();
  location.hash = `#/search/${encodeURIComponent(search.elements.words.value)}`;
};
addEventListener("hashchange", show);
show();
read("/api/posts/-/openapi.json").then(({ paths }) => {
  search.hidden = !paths["/api/posts"].get.parameters.some((parameter) => parameter.name === "q");
  if (paths["/api/posts/changes"]) follow();
}).catch(() => {});
