//! Tests of what only the users service has, over a real socket.

use service::testing::{App, bearer};

#[test]
fn users_are_found_by_id_and_by_username() {
    let finn = r#"{"id":2,"username":"finn","name":"Finn","bio":"Hero"}"#;
    let other_finn = r#"{"id":7,"username":"finn"}"#;
    let slash = r#"{"id":3,"username":"a/b?c #é%"}"#;
    let empty = r#"{"id":4,"username":"","bio":null}"#;
    let app = App::spawn(users::collection(), [other_finn, finn, slash, empty]);
    for (path, expected) in [
        ("/api/users", format!("[{finn},{slash},{empty},{other_finn}]")),
        ("/api/users/7", other_finn.to_owned()),
        // Of several users with one name, the one with the lowest id answers.
        ("/api/users/by-username/finn", finn.to_owned()),
        ("/api/users/by-username/f%69nn/", finn.to_owned()),
        ("/api/users/by-username/a%2Fb%3Fc%20%23%C3%A9%25", slash.to_owned()),
    ] {
        let answer = app.get(path);
        assert_eq!((answer.status, answer.body), (200, expected), "{path}");
    }
    for (path, status) in [
        ("/api/users/by-username/fin", 404),
        ("/api/users/by-username/Finn", 404),
        ("/api/users/by-username/%FF", 400),
        ("/api/users/by-username/", 400),
        ("/api/users/1", 404),
    ] {
        assert_eq!(app.get(path).status, status, "{path}");
    }
}

#[test]
fn a_write_cannot_take_another_users_name() {
    let ada = r#"{"id":1,"username":"ada"}"#;
    let app = App::spawn_writable(users::collection(), [ada, r#"{"id":2,"username":"bob"}"#]);
    let bearer = bearer(users::collection());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    for (method, path, body, status) in [
        ("POST", "/api/users", r#"{"username":"ada"}"#, 409),
        ("PATCH", "/api/users/2", r#"{"username":"ada"}"#, 409),
        ("PUT", "/api/users/2", r#"{"username":"ada"}"#, 409),
        ("PATCH", "/api/users/1", r#"{"username":"ada","bio":"x"}"#, 200),
        ("PATCH", "/api/users/1", r#"{"username":"lovelace"}"#, 200),
        ("POST", "/api/users", r#"{"username":"ada","name":"Another"}"#, 201),
        ("POST", "/api/users", r#"{"username":"no spaces"}"#, 422),
    ] {
        let answer = app.send(method, path, &headers, body);
        assert_eq!(answer.status, status, "{method} {path} {body}: {answer:?}");
    }
    assert_eq!(app.get("/api/users/by-username/ada").body, r#"{"id":3,"username":"ada","name":"Another"}"#);
    assert_eq!(app.get("/api/users/by-username/lovelace").body, r#"{"id":1,"username":"lovelace","bio":"x"}"#);
}
