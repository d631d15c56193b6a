//! The OpenAPI 3.1 document of a service, made from its collection's declaration.
//!
//! ```text
//! GET /api/{collection}/-/openapi.json   the document
//! GET /api/{collection}/openapi.json     the same, unless ids are texts: a record could have this one
//! ```
//!
//! Paths and schemas follow from data that is known only when the program runs, so there are no Rust types to derive them
//! from, and the document is put together as JSON, in the standard's own words. A route is an entry in `paths`, a
//! parameter a line in `of_lists` or `of_writes`, an error status a line in `ERRORS`.

use headers::HeaderMapExt;
use record::declaration::{Answers, Field, ID_TEXT_BYTES, IndexDeclaration, Shape, TermKind, USERNAME_CHARACTERS};
use record::id::Id;
use record::limits::{BATCH_BYTES, BATCH_RECORDS, BODY_BYTES, BODY_DEPTH, Violation};
use record::model::Collection;
use serde_json::{Map, Value, json};
use warp::http::StatusCode;
use warp::reply::Response;

use crate::condition::entity_tag;
use crate::deprecation::Announcements;
use crate::parameters::{BATCH, BOUND_CHARACTERS, BOUNDS, PAGE_RECORDS, SKIPPED, bounds_of, sortable};
use crate::problem::{Problem, READS, Unknown, page_of, title_of};
use crate::reference::File;
use crate::reply::{self, Answer, LINES};

/// The media type of records and lists.
const JSON: &str = "application/json";

/// The media type of errors.
const PROBLEM: &str = "application/problem+json";

/// The error statuses: when a request gets each, and the headers that may come with it.
const ERRORS: [(u16, &str, &[&str]); 19] = [
    (400, "It has no meaning: an id that is not one, an unknown parameter, a body that cannot be read.", &[]),
    (401, "It has no token that this service knows.", &["WWW-Authenticate"]),
    (
        403,
        "The service is read-only, or the token does not allow this; `WWW-Authenticate` names a scope that it lacks.",
        &[],
    ),
    (404, "There is no such record, or nothing at this path.", &[]),
    (405, "The path does not answer this method.", &["Allow"]),
    (408, "It came too slowly.", &[]),
    (409, "Another record has a value that only one may have.", &[]),
    (410, "The history of changes no longer has this place; read the list anew.", &[]),
    (412, "The record does not meet the request's condition.", &[]),
    (413, "The body is too long, or has too many records.", &[]),
    (415, "The body is not JSON, or has a `Content-Encoding`.", &["Accept-Patch", "Accept-Encoding"]),
    (422, "The record would break its declaration, or the request contradicts an earlier one.", &[]),
    (429, "The entrance allows no more at once, or a second.", &["Retry-After"]),
    (500, "A fault; the log has its cause.", &[]),
    (501, "The entrance does not forward this method.", &[]),
    (502, "The entrance got no valid answer. A write may have been done.", &[]),
    (503, "The service takes none now. Unless `detail` says otherwise, nothing was done.", &["Retry-After"]),
    (504, "The service, or its broker, gave no answer in time. A write may have been done.", &[]),
    (507, "No id is left to give.", &[]),
];

/// The errors that any request may get.
const OF_ALL: [u16; 7] = [400, 408, 429, 500, 502, 503, 504];

/// The errors of a write with a body.
const OF_BODIES: [u16; 3] = [413, 415, 422];

/// `GET /api/{collection}/-/openapi.json`
pub(crate) fn answer(collection: Collection) -> Answer {
    let document = document(collection);
    // A constant, but for another version of the program or of the declaration.
    let tag = entity_tag(0, document.as_bytes());
    let mut response = reply::json(Response::new(document.into()));
    response.headers_mut().typed_insert(tag);
    Ok(response)
}

/// Returns the document of a collection's service.
pub fn document(collection: Collection) -> String {
    let name = collection.name();
    let description = format!(
        "The service of the collection `{name}`. Each path that answers GET answers HEAD too, except the backup; each \
         answers OPTIONS; a slash at its end changes nothing. A path answers no other method than those here (405). A \
         parameter that a path does not have is a 400. A body is one JSON object of at most {BODY_BYTES} bytes, nested \
         at most {BODY_DEPTH} deep, without repeated keys; new records may also be lines of such objects. Through the entrance each answer also has an `X-Request-Id`."
    );
    let document = json!({
        "openapi": "3.1.0",
        "info": { "title": name, "version": env!("CARGO_PKG_VERSION"), "description": description },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "records", "description": "The records, for everybody." },
            { "name": "service", "description": "The service itself. What lies outside of `/api` is not reachable through the entrance." },
        ],
        "paths": paths(collection),
        "components": {
            "schemas": schemas(collection),
            "headers": headers(),
            "responses": errors(collection),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A write token of this service, as `seed token` makes it, or a user's JSON Web Token if the service accepts those.",
            } },
        },
    });
    let mut text = serde_json::to_string_pretty(&document).expect("it is JSON");
    text.push('\n');
    text
}

/// Lists the paths and what they answer.
fn paths(collection: Collection) -> Map<String, Value> {
    let all = format!("/api/{}", collection.name());
    let singular = collection.singular();
    let mut paths = Map::new();
    let mut put = |path: &str, item: Value| paths.insert(path.to_owned(), item);
    let names = match (collection.is_single(), collection.has_text_ids()) {
        (true, _) => vec![],
        (false, true) => vec![in_path("id", texts(), "The record's id; of an integer, its digits.")],
        (false, false) => vec![in_path("id", ids(), "The record's id.")],
    };

    let one = read("read", &format!("Reads one {singular}"), join(&names, &of_record(collection)), record());
    let one = with_errors(one, &[404, 412]);
    let mut replace = write("replace", &format!("Replaces one {singular}"), join(&names, &of_writes()), "Replacement");
    replace["responses"]["200"] = record();
    replace["responses"]["201"] = created();
    replace["description"] = "With `If-None-Match: *` it creates a record that is not there.".into();
    let replace = with_errors(replace, if collection.has_text_ids() { &[404, 409, 507] } else { &[404, 409] });
    let mut patch = write("patch", &format!("Changes one {singular}"), join(&names, &of_writes()), "Patch");
    patch["responses"]["200"] = record();
    patch["description"] = "Applies a [merge patch](https://www.rfc-editor.org/rfc/rfc7396).".into();
    let of_patch = patch["requestBody"]["content"][JSON].clone();
    patch["requestBody"]["content"]["application/merge-patch+json"] = of_patch;
    let patch = with_errors(patch, &[404, 409]);
    if collection.is_single() {
        put(&all, json!({ "get": one, "put": replace, "patch": patch }));
    } else {
        let list = read("list", "Lists all records, or a part", join(&of_lists(collection, true), &of_reads()), list());
        let mut create = write("create", &format!("Creates one {singular}"), vec![idempotency_key()], "NewRecord");
        create["responses"]["201"] = created();
        create["description"] = format!(
            "Lines of JSON are at most {BATCH_RECORDS} records in {BATCH_BYTES} bytes. All of them are created, or none: a \
             refusal names the line, from 0, at the beginning of `pointer`."
        )
        .into();
        let new = json!({ "type": "string", "description": "Lines of which each is a `NewRecord`." });
        create["requestBody"]["content"][LINES] =
            json!({ "schema": new, "example": format!("{0}\n{0}\n", Value::Object(example_of_record(collection))) });
        let answered =
            "Lines of which each has the `id`, `location` and `etag` of a record, in the order of the body's.";
        create["responses"]["201"]["content"][LINES] =
            json!({ "schema": { "type": "string", "description": answered } });
        let create = with_errors(create, &[409, 507]);
        let mut delete = operation("delete", &format!("Deletes one {singular}"), join(&names, &of_writes()));
        delete["responses"]["204"] = json!({ "description": "It is deleted.", "headers": header_refs(&["Sequence"]) });
        let delete = with_errors(with_token(delete), &[404, 412]);
        put(&all, json!({ "get": with_errors(list, &[412]), "post": create }));
        put(&format!("{all}/{{id}}"), json!({ "get": one, "put": replace, "patch": patch, "delete": delete }));
    }
    for index in collection.indexes() {
        put(&format!("{all}/{}/{{value}}", index.route), json!({ "get": found(collection, index) }));
    }

    let changes = |id| json!({ "get": with_errors(changes(collection, id), &[410]) });
    put(&format!("{all}/-/changes"), changes("changes"));
    if !collection.has_text_ids() {
        put(&format!("{all}/changes"), changes("changes_too"));
    }
    let lines = answer_of(LINES, json!({ "type": "string" }), &[]);
    let backup = with_token(read("backup", "Reads all records at one revision", of_backups(), lines));
    put(&format!("{all}/-/backup"), json!({ "get": of_service(backup) }));
    let document = |id| {
        let answer = answer_of(JSON, json!({ "type": "object" }), &["ETag"]);
        of_service(with_errors(read(id, "Describes this API", of_reads(), answer), &[412]))
    };
    put(&format!("{all}/-/openapi.json"), json!({ "get": document("openapi") }));
    if !collection.has_text_ids() {
        put(&format!("{all}/openapi.json"), json!({ "get": document("openapi_too") }));
    }
    let page = |id| {
        let answer = answer_of("text/html", json!({ "type": "string" }), &["ETag"]);
        of_service(with_errors(read(id, "Shows this API to people", of_reads(), answer), &[412]))
    };
    put(&format!("{all}/-/docs"), json!({ "get": page("docs") }));
    if !collection.has_text_ids() {
        put(&format!("{all}/docs"), json!({ "get": page("docs_too") }));
    }
    let mut problems = page("problems");
    problems["summary"] = "Explains the kinds of problems to people".into();
    put(&page_of(collection), json!({ "get": problems }));
    let files = json!({ "type": "string", "enum": File::LOADED.map(|(name, _)| name) });
    let file = in_path("file", files, "A file that the page loads.");
    let mut answer = answer_of("text/javascript", json!({ "type": "string" }), &["ETag"]);
    answer["content"]["text/css"] = answer["content"]["text/javascript"].clone();
    let file =
        with_errors(read("docs_file", "Loads a file of the page", join(&[file], &of_reads()), answer), &[404, 412]);
    put(&format!("{all}/-/docs/{{file}}"), json!({ "get": of_service(file) }));
    for (path, id, summary, errors) in [
        ("/", "root", "Answers as the monolith does", &[][..]),
        ("/api/", "api", "Answers as the monolith does", &[]),
        ("/live", "live", "Tells whether the process runs", &[404]),
        ("/ready", "ready", "Tells whether the service can serve", &[404]),
    ] {
        let operation = read(id, summary, vec![], answer_of("text/plain", json!({ "type": "string" }), &[]));
        put(path, json!({ "get": of_service(with_errors(operation, errors)) }));
    }
    let mut scrub = with_errors(operation("scrub", "Reads and checks everything", vec![]), &[404]);
    scrub["responses"]["200"] = answer_of("text/plain", json!({ "type": "string" }), &[]);
    scrub["responses"]["500"] = answer_of("text/plain", json!({ "type": "string" }), &[]);
    scrub["responses"]["500"]["description"] = "Something is damaged; the text lists it.".into();
    put("/scrub", json!({ "post": of_service(scrub) }));
    announce(collection, &mut paths);
    paths
}

/// Marks the operations that the declaration announces to be gone.
fn announce(collection: Collection, paths: &mut Map<String, Value>) {
    let Some(announcements) = Announcements::new(collection) else { return };
    for (path, operations) in paths.iter_mut() {
        let Some(has_end) = announcements.about(path) else { continue };
        for operation in operations.as_object_mut().into_iter().flat_map(|operations| operations.values_mut()) {
            operation["deprecated"] = true.into();
            let answers = operation["responses"].as_object_mut();
            for answer in answers.into_iter().flat_map(|answers| answers.values_mut()) {
                if answer.get("$ref").is_none() {
                    answer["headers"]["Deprecation"] = json!({ "$ref": "#/components/headers/Deprecation" });
                    if has_end {
                        answer["headers"]["Sunset"] = json!({ "$ref": "#/components/headers/Sunset" });
                    }
                }
            }
        }
    }
}

/// `GET /api/{collection}/changes`
fn changes(collection: Collection, id: &str) -> Value {
    let place = json!({ "type": "string", "pattern": "^(0|[1-9][0-9]{0,18})(-[0-9a-f]{8})?$" });
    let after = "Follows from behind this place: an event's `id`, or a revision. Without a place, from now on.";
    let known = "The same, as a browser sends it when it comes back. It goes before `after`.";
    let parameters = vec![in_query("after", place.clone(), after), in_header("Last-Event-ID", place, known)];
    let record = example_with_id(collection);
    let mut data = Map::new();
    data.extend(record.get("id").map(|id| ("id".to_owned(), id.clone())));
    data.extend([("revision".to_owned(), json!(42)), ("record".to_owned(), record.into())]);
    let data = Value::Object(data);
    let event = json!({
        "type": "object",
        "description": "One event.",
        "properties": {
            "event": { "enum": ["place", "put", "delete"] },
            "id": { "type": "string" },
            "data": { "type": "string", "description": "JSON: the record's `id`, its `revision`, and the `record`." },
        },
        "required": ["event", "id", "data"],
    });
    let mut answer = answer_of("text/event-stream", event, &[]);
    answer["content"]["text/event-stream"]["example"] =
        format!("event: place\nid: 41-9f31c07a\ndata: {{}}\n\nevent: put\nid: 42-9f31c07a\ndata: {data}\n\n").into();
    answer["content"][LINES] = json!({ "schema": { "type": "string" } });
    let mut changes = read(id, "Follows each change as it happens", parameters, answer);
    changes["description"] =
        "Does not end. Events are `place`, `put` and `delete`; the data is JSON. If `Accept` names \
                              `application/x-ndjson`, each is a line, with its `event` and `place`."
            .into();
    changes
}

/// `GET /api/{collection}/in-thread/{value}`
fn found(collection: Collection, index: &IndexDeclaration) -> Value {
    let field = &index.field;
    let values = match collection.terms_of(index) {
        TermKind::Id => ids(),
        TermKind::TextId | TermKind::Text => texts(),
        TermKind::Number => json!({ "type": "number" }),
    };
    let value = in_path("value", values, &format!("The value of `{field}`."));
    let id = format!("by_{}", index.route);
    match index.answers {
        Answers::Many => {
            let parameters = join(&[value], &join(&of_lists(collection, false), &of_reads()));
            with_errors(read(&id, &format!("Lists the records with this {field}"), parameters, list()), &[412])
        }
        Answers::One => {
            let summary = format!("Reads the record with this {field}, or of several the one with the lowest id");
            with_errors(read(&id, &summary, join(&[value], &of_record(collection)), record()), &[404, 412])
        }
    }
}

/// Lists the parameters of a list of records, which are all if `of_all`.
fn of_lists(collection: Collection, of_all: bool) -> Vec<Value> {
    let count = |most: usize| json!({ "type": "integer", "minimum": 1, "maximum": most });
    let of_ids = "c1-([1-9a-f][0-9a-f]{0,14}|[1-7][0-9a-f]{15})";
    let mut cursors = vec![of_ids.to_owned()];
    if collection.is_searchable() {
        let (id, bits) = ("([1-9a-f][0-9a-f]{0,14}|[1-7][0-9a-f]{15})", "[0-9a-f]{16}");
        cursors.push(format!("r2-{id}-{bits}-{bits}-{id}"));
    }
    let sortable: Vec<&str> = sortable(collection).filter(|_| of_all).map(|index| &*index.field).collect();
    if !sortable.is_empty() {
        cursors.push("s1-([0-9a-f]{2})*-([1-9a-f][0-9a-f]{0,14}|[1-7][0-9a-f]{15})".to_owned());
    }
    let cursors = format!("^({})$", cursors.join("|"));
    let cursors = json!({ "type": "string", "pattern": cursors });
    let fields = ["id"].into_iter().chain(sortable).flat_map(|field| [field.to_owned(), format!("-{field}")]);
    let names: Vec<String> = fields.collect();
    let orders = || json!({ "type": "string", "enum": names });
    let of_page = "At most so many records; `Link` leads to the `first` and the `next` page.";
    let mut all = vec![
        in_query("limit", count(PAGE_RECORDS), of_page),
        in_query("after", cursors, "What comes behind a page. Take it from the `next` link."),
        in_query(
            "count",
            json!({ "type": "boolean" }),
            "Whether `X-Total-Count` says how many there are on all pages.",
        ),
        in_query(
            "sort",
            orders(),
            "The order: by id, `-id` for the newest first, or by a field; texts by their code points, numbers by their values. One by a field is of all records.",
        ),
        self::fields(collection),
    ];
    if of_all {
        let names = json!({ "type": "array", "minItems": 1, "maxItems": BATCH, "items": if collection.has_text_ids() {
            json!({ "type": "string", "pattern": "^[^,]+$" })
        } else {
            ids()
        } });
        let which = "These records, in this order, without those that do not exist. Goes with `fields` alone.";
        all.push(in_query("ids", names.clone(), which));
        let mut repeated = in_query("id", names, "As `ids`, with each id in a parameter of its own.");
        repeated["explode"] = true.into();
        all.push(repeated);
    }
    if collection.is_searchable() {
        let words = "Records with these words, of which the last may be a beginning; those that fit best first.";
        all.push(in_query("q", json!({ "type": "string", "minLength": 1 }), words));
    }
    if !collection.has_text_ids() {
        let which = ["From this id on.", "Above this id.", "Up to this id.", "Below this id."];
        all.extend(BOUNDS.into_iter().zip(which).map(|(name, which)| in_query(name, ids(), which)));
    }
    let page = "json-server's number of a page. They end behind 10,000 records; `next` goes on.";
    all.extend([
        in_query("_limit", count(PAGE_RECORDS), "json-server's word for `limit`."),
        in_query("_page", count(SKIPPED + 1), page),
        in_query("_per_page", count(PAGE_RECORDS), "json-server's word for `limit`."),
        in_query("_sort", orders(), "json-server's word for `sort`."),
        in_query("_order", json!({ "type": "string", "enum": ["asc", "desc"] }), "json-server's order."),
    ]);
    for index in self::sortable(collection) {
        let mut values = values_of(collection, index);
        if values["type"] == "string" {
            values["maxLength"] = json!(BOUND_CHARACTERS);
        }
        let which = ["At least", "Above", "At most", "Below"];
        for (name, which) in bounds_of(collection, index).into_iter().zip(which) {
            let name = name.filter(|name| all.iter().all(|other| other["name"] != **name));
            let description = format!("{which} this `{}`.", index.field);
            all.extend(name.map(|name| announced(index, in_query(&name, values.clone(), &description))));
        }
    }
    for index in collection.indexes() {
        // The others have priority.
        if all.iter().all(|other| other["name"] != *index.field) {
            let description = format!("Records with this `{}`.", index.field);
            all.push(announced(index, in_query(&index.field, values_of(collection, index), &description)));
        }
    }
    all
}

/// Describes the values that `index` lists.
fn values_of(collection: Collection, index: &IndexDeclaration) -> Value {
    match collection.terms_of(index) {
        TermKind::Id => ids(),
        TermKind::TextId | TermKind::Text => json!({ "type": "string" }),
        TermKind::Number => json!({ "type": "number" }),
    }
}

/// Marks a parameter that is gone with `index`.
fn announced(index: &IndexDeclaration, mut parameter: Value) -> Value {
    if index.deprecated.is_some() {
        parameter["deprecated"] = json!(true);
    }
    parameter
}

/// Lists the parameters of a single record.
fn of_record(collection: Collection) -> Vec<Value> {
    join(&[fields(collection)], &of_reads())
}

fn fields(collection: Collection) -> Value {
    // A name with a comma cannot be asked for.
    let declared = collection.declaration().fields.iter().map(|field| &*field.name).filter(|name| !name.contains(','));
    let names: Vec<&str> = std::iter::once("id").chain(declared).collect();
    let items = json!({ "type": "string", "enum": names });
    let names = json!({ "type": "array", "items": items, "minItems": 1, "uniqueItems": true });
    in_query("fields", names, "These fields alone. A single record then has no `ETag`.")
}

/// Lists the conditions of a read.
fn of_reads() -> Vec<Value> {
    let spares = "Answers 304 if the client has this state already.";
    let refuses = "Answers 412 if this is not the state.";
    let waits = "Of a replicated service: waits until this replica knows what an answer with this `Sequence` knew.";
    vec![
        in_header("If-None-Match", json!({ "type": "string" }), spares),
        in_header("If-Match", json!({ "type": "string" }), refuses),
        in_header("Read-After", json!({ "type": "string" }), waits),
    ]
}

/// Lists the conditions of a write.
fn of_writes() -> Vec<Value> {
    let refuses = "The state that is to be written over, as its `ETag`. Another one is a 412, so no update gets lost.";
    let creates = "`*` creates a record where none is; 412 if there is one.";
    vec![
        in_header("If-Match", json!({ "type": "string" }), refuses),
        in_header("If-None-Match", json!({ "type": "string" }), creates),
    ]
}

fn idempotency_key() -> Value {
    let does = "Makes a repeated POST harmless: for a day its first answer is repeated. A text, or one in quotes.";
    in_header("Idempotency-Key", json!({ "type": "string", "minLength": 1, "maxLength": 255 }), does)
}

fn of_backups() -> Vec<Value> {
    let history = "The history of the backup that this one continues. Goes with `since`.";
    let since = "The revision of that backup.";
    let revisions = json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX });
    vec![in_query("history", json!({ "type": "string" }), history), in_query("since", revisions, since)]
}

// ---- Records.

/// Lists the schemas of records: as they are read, and as each kind of write takes them.
fn schemas(collection: Collection) -> Value {
    let declared = &collection.declaration().fields;
    let object = |id: Option<Value>, shape: fn(&Shape) -> Value| -> Map<String, Value> {
        let field = |field: &Field| {
            let schema = shape(&field.shape);
            (field.name.to_string(), if field.required { schema } else { or_null(schema) })
        };
        id.map(|id| ("id".to_owned(), id)).into_iter().chain(declared.iter().map(field)).collect()
    };
    let required: Vec<&str> = declared.iter().filter(|field| field.required).map(|field| &*field.name).collect();
    let id = match (collection.is_single(), collection.has_text_ids()) {
        (true, _) => None,
        (false, true) => Some(json!({ "type": ["string", "integer"] })),
        (false, false) => Some(ids()),
    };
    let read = object(id.clone(), read_shape);
    let with_id = id.iter().map(|_| "id").chain(required.iter().copied()).collect::<Vec<_>>();
    let example = || example_of_record(collection);
    let mut schemas = json!({
        "Record": {
            "type": "object",
            "description": "A record. It may have other fields too. One that an older declaration let through may lack some.",
            "properties": read,
            "required": with_id,
            "example": example_with_id(collection),
        },
        "Part": {
            "type": "object",
            "description": "What `fields` leaves of a record.",
            "properties": read,
        },
        "Replacement": {
            "type": "object",
            "description": "The whole record. Other fields are kept as sent. An `id` is that of the path.",
            "properties": object(id.clone(), written_shape),
            "required": required,
            "example": example(),
        },
        "Patch": {
            "type": "object",
            "description": "The fields to change; null removes one. An `id` is that of the path.",
            "properties": object(id.clone(), written_shape),
            "example": example().into_iter().take(1).collect::<Map<_, _>>(),
        },
        "Problem": {
            "type": "object",
            "description": "An error, as RFC 9457 has it.",
            "properties": {
                "type": {
                    "type": "string",
                    "format": "uri-reference",
                    "pattern": format!("^({}#[a-z-]+|about:blank)$", page_of(collection).replace('.', "\\.")),
                    "description": "The kind: a part of the page of problems. The entrance's own have `about:blank`.",
                },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string", "description": "What is wrong and what to do, for people." },
                "errors": { "type": "array", "description": "All that is wrong with a record.", "items": {
                    "type": "object",
                    "properties": {
                        "pointer": { "type": "string", "description": "A JSON pointer to the field." },
                        "detail": { "type": "string" },
                    },
                    "required": ["pointer", "detail"],
                } },
            },
            "required": ["type", "title", "status", "detail"],
        },
    });
    if !collection.is_single() {
        // If ids are integers, the service gives them.
        let id = if collection.has_text_ids() { json!({ "type": "string", "pattern": NEW_ID }) } else { json!(false) };
        schemas["NewRecord"] = json!({
            "type": "object",
            "description": "A new record. Other fields are kept as sent.",
            "properties": object(Some(id), written_shape),
            "required": required,
            "example": example(),
        });
    }
    schemas
}

/// The text ids of new records.
const NEW_ID: &str = "^[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}$";

/// Returns the schema of a value that is read. The limits of writes do not hold: a split lets longer ones through.
fn read_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Reference { text: false, .. } => ids(),
        Shape::Reference { text: true, .. } => json!({ "type": ["string", "integer"] }),
        Shape::Username | Shape::Line { .. } | Shape::Text { .. } => json!({ "type": "string" }),
        Shape::Number => json!({ "type": "number" }),
        Shape::Boolean => json!({ "type": "boolean" }),
        Shape::Any => json!({}),
    }
}

/// Returns the schema of a value that is written.
fn written_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Reference { to, .. } => {
            let mut schema = read_shape(shape);
            schema["description"] =
                format!("An id of {to}. That service alone knows whether there is such a record.").into();
            if matches!(shape, Shape::Reference { text: true, .. }) {
                (schema["minLength"], schema["maxLength"]) = (1.into(), ID_TEXT_BYTES.into());
            }
            schema
        }
        Shape::Username => {
            let rest = USERNAME_CHARACTERS - 1;
            json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_][A-Za-z0-9._-]{{0,{rest}}}$") })
        }
        Shape::Line { least, most } => json!({
            "type": "string",
            "minLength": least,
            "maxLength": most,
            "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]*$",
            "description": "One line.",
        }),
        Shape::Text { most } => json!({
            "type": "string",
            "maxLength": most,
            "description": format!("At most {most} bytes of UTF-8."),
        }),
        _ => read_shape(shape),
    }
}

/// Returns a record that may be written.
fn example_of_record(collection: Collection) -> Map<String, Value> {
    collection.declaration().fields.iter().map(|field| (field.name.to_string(), example(&field.shape))).collect()
}

/// Returns a record as it is read.
fn example_with_id(collection: Collection) -> Map<String, Value> {
    let id = if collection.has_text_ids() { json!("a1") } else { json!(1) };
    let id = (!collection.is_single()).then(|| ("id".to_owned(), id));
    id.into_iter().chain(example_of_record(collection)).collect()
}

/// Returns a value that may be written.
fn example(shape: &Shape) -> Value {
    match shape {
        Shape::Reference { text: false, .. } | Shape::Number => json!(1),
        Shape::Reference { text: true, .. } => json!("a1"),
        Shape::Username => json!("ada"),
        Shape::Line { least, most } => {
            let line = format!("{:<least$}", "A line of text");
            json!(line.chars().take(*most).collect::<String>())
        }
        Shape::Text { most } => json!("A text"[..6.min(*most)]),
        Shape::Boolean => json!(true),
        Shape::Any => json!("anything"),
    }
}

/// Allows null too.
fn or_null(mut schema: Value) -> Value {
    if let Some(kind) = schema.get_mut("type") {
        let mut kinds = if let Value::Array(kinds) = kind { kinds.clone() } else { vec![kind.clone()] };
        kinds.push("null".into());
        *kind = kinds.into();
    }
    schema
}

fn ids() -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": Id::MAX.get() })
}

/// Texts that can be a segment of a path.
fn texts() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

// ---- The standard's forms.

fn in_path(name: &str, schema: Value, description: &str) -> Value {
    let mut parameter =
        json!({ "in": "path", "name": name, "required": true, "schema": schema, "description": description });
    // The reference page then asks for a record that is there, most likely.
    if parameter["schema"]["type"] == "integer" {
        parameter["example"] = 1.into();
    }
    parameter
}

fn in_header(name: &str, schema: Value, description: &str) -> Value {
    json!({ "in": "header", "name": name, "schema": schema, "description": description })
}

/// A list of several values has commas between them.
fn in_query(name: &str, schema: Value, description: &str) -> Value {
    json!({ "in": "query", "name": name, "explode": false, "schema": schema, "description": description })
}

fn join(first: &[Value], second: &[Value]) -> Vec<Value> {
    [first, second].concat()
}

fn operation(id: &str, summary: &str, parameters: Vec<Value>) -> Value {
    let operation = json!({ "operationId": id, "summary": summary, "tags": ["records"], "parameters": parameters, "responses": {} });
    with_errors(operation, &OF_ALL)
}

fn read(id: &str, summary: &str, parameters: Vec<Value>, answer: Value) -> Value {
    let mut read = operation(id, summary, parameters);
    read["responses"]["200"] = answer;
    if read["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "If-None-Match")) {
        let headers = json!({ "ETag": { "$ref": "#/components/headers/ETag" } });
        read["responses"]["304"] = json!({ "description": "The client has it already.", "headers": headers });
    }
    read
}

fn write(id: &str, summary: &str, parameters: Vec<Value>, schema: &str) -> Value {
    let mut write = with_errors(operation(id, summary, parameters), &OF_BODIES);
    write["requestBody"] = json!({ "required": true, "content": { JSON: { "schema": schema_named(schema) } } });
    with_errors(with_token(write), &[412])
}

fn with_token(mut operation: Value) -> Value {
    operation["security"] = json!([{ "token": [] }]);
    with_errors(operation, &[401, 403])
}

fn with_errors(mut operation: Value, statuses: &[u16]) -> Value {
    for status in statuses {
        let response = format!("#/components/responses/{}", name_of(*status));
        operation["responses"][status.to_string()] = json!({ "$ref": response });
    }
    operation
}

fn of_service(mut operation: Value) -> Value {
    operation["tags"] = json!(["service"]);
    operation
}

fn schema_named(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// An answer in the form `kind`, which has some of the `headers`.
fn answer_of(kind: &str, schema: Value, headers: &[&str]) -> Value {
    json!({
        "description": "It is there.",
        "headers": header_refs(headers),
        "content": { kind: { "schema": schema } },
    })
}

fn header_refs(names: &[&str]) -> Value {
    let header = |name: &&str| ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }));
    Value::Object(names.iter().map(header).collect())
}

/// An answer with a record, or with the part of it that was asked for.
fn record() -> Value {
    answer_of(JSON, json!({ "anyOf": [schema_named("Record"), schema_named("Part")] }), &["ETag", "Sequence"])
}

fn created() -> Value {
    let mut created = answer_of(JSON, schema_named("Record"), &["ETag", "Location", "Sequence"]);
    created["description"] = "It is created.".into();
    created
}

fn list() -> Value {
    let items = json!({ "anyOf": [schema_named("Record"), schema_named("Part")] });
    let mut list = answer_of(
        JSON,
        json!({ "type": "array", "items": items }),
        &["ETag", "Link", "Sequence", "X-Total-Count", "Vary"],
    );
    let lines = "Each record on a line of its own, if `Accept` names this type.";
    list["content"][LINES] = json!({ "schema": { "type": "string", "description": lines } });
    list
}

fn headers() -> Value {
    json!({
        "ETag": { "schema": { "type": "string" }, "description": "The state, for conditions." },
        "Link": { "schema": { "type": "string" }, "description": "Links to other pages of a list with a `limit` (RFC 8288)." },
        "Deprecation": { "required": true, "schema": { "type": "string" }, "description": "Since when something else should be used: `@` and seconds since 1970 (RFC 9745)." },
        "Sunset": { "required": true, "schema": { "type": "string" }, "description": "When this will be gone (RFC 8594)." },
        "X-Total-Count": {
            "schema": { "type": "integer", "minimum": 0 },
            "description": "The number of records on all pages, if `count` asks for it.",
        },
        "Location": { "schema": { "type": "string" }, "description": "The path of the new record; lines have it in themselves." },
        "Sequence": { "schema": { "type": "integer" }, "description": "Of a replicated service: the number of the last write that the answer may know of, for `Read-After`." },
        "Vary": { "schema": { "type": "string" }, "description": "`accept`: the answer is an array, or lines." },
        "Allow": { "required": true, "schema": { "type": "string" }, "description": "The methods that the path answers." },
        "WWW-Authenticate": { "required": true, "schema": { "type": "string" }, "description": "How to send a token (RFC 6750)." },
        "Retry-After": { "required": true, "schema": { "type": "integer" }, "description": "The seconds after which to ask again." },
        "Accept-Patch": { "schema": { "type": "string" }, "description": "What a patch may be." },
        "Accept-Encoding": { "schema": { "type": "string" }, "description": "The codings that a body may have: none." },
    })
}

/// Lists the answers with an error.
fn errors(collection: Collection) -> Map<String, Value> {
    let answer = |(status, when, headers): (u16, &str, &[&str])| {
        let mut answer = answer_of(PROBLEM, schema_named("Problem"), headers);
        answer["description"] = when.into();
        if let Some(problem) = example_of(collection, status) {
            answer["content"][PROBLEM]["example"] = problem.example(collection);
        }
        (name_of(status), answer)
    };
    ERRORS.into_iter().map(answer).collect()
}

/// Returns a problem with this status; `None` if only the entrance answers with it.
fn example_of(collection: Collection, status: u16) -> Option<Problem> {
    Some(match status {
        400 => Problem::NotAnId,
        401 => Problem::Unauthorized { realm: collection, unknown: Unknown::Nobody },
        403 => Problem::ReadOnly(collection),
        404 => Problem::NoSuchRecord,
        405 => Problem::MethodNotAllowed(READS),
        408 => Problem::BodySlow,
        409 => Problem::Taken { singular: collection.singular(), field: "id", line: None },
        410 => Problem::OtherHistory,
        412 => Problem::ConditionFailed,
        413 => Problem::BodyTooLarge(BODY_BYTES),
        415 => Problem::MediaType,
        422 => Problem::Invalid(vec![Violation { pointer: "/a".into(), detail: "must be given".into() }]),
        500 => Problem::Panicked,
        503 => Problem::Busy,
        504 => Problem::FateUnknown,
        507 => Problem::NoIdsLeft,
        _ => return None,
    })
}

/// Returns the name of an error's answer: its title without spaces.
fn name_of(status: u16) -> String {
    StatusCode::from_u16(status).map(title_of).unwrap_or_default().replace(' ', "")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use record::declaration::Declaration;
    use record::edit;
    use record::sample;

    use super::*;
    use crate::parameters;
    use crate::problem::KINDS;

    fn read(collection: Collection) -> Value {
        serde_json::from_str(&document(collection)).unwrap()
    }

    /// A collection with every shape.
    fn all_shapes() -> Collection {
        Collection::of(
            Declaration::read(
                r#"{"name":"things","ids":"text","fields":[
                    {"name":"owner","shape":{"reference":{"to":"users"}}},
                    {"name":"of","shape":{"reference":{"to":"things","text":true}},"required":false},
                    {"name":"name","shape":"username"},
                    {"name":"title","shape":{"line":{"least":20,"most":30}}},
                    {"name":"limit","shape":{"line":{"most":3}}},
                    {"name":"text","shape":{"text":{"most":2}},"search":true},
                    {"name":"count","shape":"number"},
                    {"name":"is_a","shape":"boolean"},
                    {"name":"a,b","shape":"any"}],
                  "indexes":[
                    {"number":1,"field":"owner","route":"of-owner"},
                    {"number":2,"field":"of","route":"part-of"},
                    {"number":3,"field":"limit","route":"limited"},
                    {"number":4,"field":"name","route":"named","answers":"one","unique":true}]}"#,
            )
            .unwrap(),
        )
    }

    fn all_collections() -> [Collection; 5] {
        let single = r#"{"name":"profile","ids":"single","fields":[{"name":"name","shape":"username"}]}"#;
        [sample::users(), sample::threads(), sample::posts(), all_shapes(), Collection::embedded(single)]
    }

    #[test]
    fn each_list_has_the_parameters_that_it_takes() {
        for collection in all_collections() {
            for of_all in [true, false] {
                let described = of_lists(collection, of_all);
                let described: Vec<&str> = described.iter().map(|one| one["name"].as_str().unwrap()).collect();
                let names = parameters::names(collection, of_all);
                let names: BTreeSet<&str> = names.iter().map(|name| &**name).collect();
                assert_eq!(described.iter().copied().collect::<BTreeSet<_>>(), names);
                assert_eq!(described.len(), names.len(), "{described:?}");
            }
        }
    }

    /// Each status that problem.rs names is described, and only the entrance has others.
    #[test]
    fn each_error_status_is_described() {
        let named: BTreeSet<u16> = KINDS.iter().map(|kind| kind.status.as_u16()).collect();
        let described = ERRORS.iter().map(|(status, ..)| *status);
        let described: BTreeSet<u16> = described.filter(|status| ![429, 501, 502].contains(status)).collect();
        assert_eq!(named, described);
        for (status, ..) in ERRORS {
            let of = sample::users();
            let example = example_of(of, status).map(|problem| problem.example(of)["status"].clone());
            assert!(example.is_none_or(|example| example == status), "{status}");
        }
    }

    #[test]
    fn each_reference_leads_somewhere_and_each_operation_has_its_own_id() {
        for collection in all_collections() {
            let document = read(collection);
            let mut ids = BTreeSet::new();
            let mut open = vec![&document];
            while let Some(value) = open.pop() {
                if let Some(reference) = value.get("$ref") {
                    let pointer = reference.as_str().unwrap().trim_start_matches('#');
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                if let Some(id) = value.get("operationId") {
                    assert!(ids.insert(id.to_string()), "{id}");
                }
                open.extend(value.as_object().into_iter().flat_map(|members| members.values()));
                open.extend(value.as_array().into_iter().flatten());
            }
            assert!(ids.len() > 8, "{ids:?}");
        }
    }

    #[test]
    fn the_examples_may_be_written() {
        for collection in all_collections() {
            let schemas = &read(collection)["components"]["schemas"];
            let body = |name: &str| edit::read(schemas[name]["example"].to_string().as_bytes()).unwrap();
            if !collection.is_single() {
                assert_eq!(edit::create(collection, body("NewRecord")).err(), None);
            }
            let name = match (collection.is_single(), collection.has_text_ids()) {
                (true, _) => edit::RecordName::Single,
                (_, true) => edit::RecordName::Text("a1".into()),
                _ => edit::RecordName::Number(Id::FIRST),
            };
            let record = edit::replace(collection, &body("Replacement"), &name, None).unwrap();
            edit::patch(collection, &record, &body("Patch"), &name).unwrap();
        }
    }
}
