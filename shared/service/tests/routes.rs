//! Tests of the table of routes: the paths, and the methods that each answers.

use record::sample;
use service::testing::App;

#[test]
fn every_path_states_its_methods_and_other_paths_are_404() {
    let app = App::spawn_writable(sample::posts(), [r#"{"id":1,"thread":1,"text":"t","user":1}"#]);
    let reads = "GET, HEAD";
    for (path, allowed) in [
        ("/", reads),
        ("/api", reads),
        ("/api/", reads),
        ("/live", reads),
        ("/ready/", reads),
        ("/scrub", "POST"),
        ("/api/posts", "GET, HEAD, POST"),
        ("/api/posts/", "GET, HEAD, POST"),
        ("/api/posts/1", "GET, HEAD, PUT, PATCH, DELETE"),
        ("/api/posts/1/", "GET, HEAD, PUT, PATCH, DELETE"),
        ("/api/posts/x", "GET, HEAD, PUT, PATCH, DELETE"),
        ("/api/posts/in-thread/1", reads),
        ("/api/posts/-/backup", "GET"),
    ] {
        let options = app.request("OPTIONS", path);
        assert_eq!((options.status, options.header("allow"), options.body.as_str()), (204, allowed, ""), "{path}");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"] {
            let answer = app.request(method, path);
            let is_allowed = allowed.split(", ").any(|allowed| allowed == method);
            assert_eq!(answer.status != 405, is_allowed, "{method} {path}: {answer:?}");
            assert_eq!(answer.header("allow"), if is_allowed { "" } else { allowed }, "{method} {path}");
        }
    }
    for path in [
        "//",
        "/api//",
        "/api/posts//",
        "/api//posts",
        "//api/posts",
        "/api/posts//1",
        "/api/posts/1//",
        "/posts",
        "/api/users",
        "/api/users/1",
        "/API/posts",
        "/api/Posts",
        "/api/%70osts",
        "/api/posts/in-user/1",
        "/api/posts/in-thread",
        "/api/posts/in-thread/1/2",
        "/api/posts/-/scrub",
        "/live/x",
        "/api/posts/1/2/3/4",
    ] {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            // `in-thread` alone stands in the place of an id, but is not one.
            let expected = match (path, method) {
                ("/api/posts/in-thread", "GET") => 400,
                ("/api/posts/in-thread", "OPTIONS") => 204,
                ("/api/posts/in-thread", "POST") => 405,
                ("/api/posts/in-thread", _) => 401,
                _ => 404,
            };
            assert_eq!(app.request(method, path).status, expected, "{method} {path}");
        }
    }
}

#[test]
fn a_request_that_names_no_path_is_refused() {
    let app = App::spawn(sample::posts(), [r#"{"id":1,"thread":1,"text":"t","user":1}"#]);
    for request in ["CONNECT foo:80 HTTP/1.1\r\nhost: foo:80\r\n", "CONNECT a HTTP/1.1\r\nhost: a\r\n"] {
        let answer = app.raw(format!("{request}connection: close\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
}

#[test]
fn while_indexes_are_being_built_only_live_is_served() {
    let app = App::spawn_writable(sample::posts(), [r#"{"id":1,"thread":1,"text":"t","user":1}"#]);
    app.health.set_building(true);
    for path in ["/live", "/live/"] {
        let [got, asked] = ["GET", "HEAD"].map(|method| app.request(method, path));
        assert_eq!((got.status, &*got.body, asked.status), (200, "live", 200), "{path}");
    }
    let reason = "Indexes that are new in the declaration are being built; the log shows the progress.";
    let body = format!(
        r#"{{"type":"/api/posts/-/problems#building","title":"Service Unavailable","status":503,"detail":"{reason}"}}"#
    );
    for path in [
        "/",
        "/api",
        "/api/",
        "/ready",
        "/ready/",
        "/scrub",
        "/api/posts",
        "/api/posts/",
        "/api/posts/1",
        "/api/posts/in-thread/1",
        "/api/posts/-/backup",
        "/api/users",
        "/live/x",
        "/live//",
        "//live",
        "/Live",
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = app.request(method, path);
            assert_eq!((answer.status, &answer.body), (503, &body), "{method} {path}");
        }
    }
    app.health.set_building(false);
    assert_eq!((app.get("/ready").status, app.get("/api/posts/1").status), (200, 200));
}
